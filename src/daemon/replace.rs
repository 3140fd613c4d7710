//! A small file that is replaced as a whole, and in between grows by what is put at its end: a reader
//! finds the old content or the new, and what was put at the end or nothing of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The file, and the one beside it that takes its place next.
pub(super) struct Replaced {
    path: PathBuf,
    beside: PathBuf,
    current: Option<Current>,
}

/// The file at the path, if this process wrote it.
struct Current {
    file: File,
    length: u64,
    /// How long it was when it was replaced as a whole.
    whole: u64,
}

/// A file may grow by so much before it is to be replaced as a whole, or by its length if that is more.
const GROWTH: u64 = 4096;

impl Replaced {
    pub(super) fn new(path: PathBuf) -> Self {
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        Self { path, beside: beside.into(), current: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the content in place of what was there.
    pub(super) fn replace(&mut self, content: &[u8]) -> io::Result<()> {
        self.current = None;
        let file = self.create()?;
        file.write_all_at(content, 0)?;
        self.take_place()?;
        let length = length(content);
        self.current = Some(Current { file, length, whole: length });
        Ok(())
    }

    /// Puts the content at the end; `false` if the file is to be replaced: it has grown long, somebody
    /// took it away, it could not be written, or another process wrote it.
    pub(super) fn append(&mut self, content: &[u8]) -> bool {
        let Some(current) = &mut self.current else { return false };
        let grown = current.length - current.whole + length(content);
        if grown > GROWTH.max(current.whole) || !current.file.metadata().is_ok_and(|metadata| metadata.nlink() > 0) {
            return false;
        }
        let written = current.file.write_all_at(content, current.length).is_ok();
        current.length += length(content);
        written
    }

    /// The file beside takes the place of the one at the path.
    pub(super) fn take_place(&self) -> io::Result<()> {
        fs::rename(&self.beside, &self.path)
    }

    /// The file beside is of no use.
    pub(super) fn give_up(&self) {
        let _ = fs::remove_file(&self.beside);
    }

    /// Makes the file beside, and the directory if nobody has: the daemon may run by hand.
    pub(super) fn create(&self) -> io::Result<File> {
        match create(&self.beside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let directory = self.path.parent().unwrap_or(Path::new("/"));
                rustix::fs::mkdir(directory, Mode::from(0o755))?;
                create(&self.beside)
            }
            other => other,
        }
    }
}

fn length(content: &[u8]) -> u64 {
    content.len().try_into().unwrap_or(u64::MAX)
}

/// Always a new one: what another left there, a pipe for instance, is not written to.
fn create(path: &Path) -> io::Result<File> {
    if let Err(error) = fs::remove_file(path) {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(error);
        }
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    // Run by hand as root, the daemon must not leave a file that the service's own user cannot read.
    let directory = path.parent().map(fs::metadata).transpose()?;
    if let Some(owner) = directory.filter(|owner| file.metadata().is_ok_and(|own| own.uid() != owner.uid())) {
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is removed with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mptcpd-replace-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn check(replaced: &mut Replaced, content: &str) {
        replaced.replace(content.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(replaced.path()).unwrap(), content);
    }

    fn text(replaced: &Replaced) -> String {
        fs::read_to_string(replaced.path()).unwrap()
    }

    #[test]
    fn the_content_is_always_the_last_whether_it_grew_or_shrank() {
        let directory = Directory::new("content");
        let mut replaced = Replaced::new(directory.0.join("state"));
        for content in ["a", "longer than before", "short", "", "again something"] {
            check(&mut replaced, content);
        }
        assert!(!fs::exists(&replaced.beside).unwrap());
    }

    #[test]
    fn what_is_put_at_the_end_follows_the_content_until_it_has_grown_long() {
        let directory = Directory::new("append");
        let mut replaced = Replaced::new(directory.0.join("state"));
        assert!(!replaced.append(b"x"), "there is nothing yet");
        check(&mut replaced, "one");
        assert!(replaced.append(b" two"));
        assert!(replaced.append(b" three"));
        assert_eq!(text(&replaced), "one two three");
        assert!(!replaced.append(&[b'x'; 4096]), "too much");
        assert_eq!(text(&replaced), "one two three");
        check(&mut replaced, "four");
        assert!(replaced.append(b" five"));
        assert_eq!(text(&replaced), "four five");
        check(&mut replaced, &"long".repeat(2000));
        assert!(replaced.append(&[b'x'; 8000]), "no more than it was");
        assert!(!replaced.append(b"x"));
    }

    #[test]
    fn a_reader_that_has_it_open_keeps_the_old_content() {
        let directory = Directory::new("reader");
        let mut replaced = Replaced::new(directory.0.join("state"));
        check(&mut replaced, "one");
        let open = File::open(replaced.path()).unwrap();
        check(&mut replaced, "two");
        assert_eq!(io::read_to_string(open).unwrap(), "one");
    }

    #[test]
    fn whoever_removes_files_or_the_directory_does_no_lasting_harm() {
        let directory = Directory::new("removed");
        let mut replaced = Replaced::new(directory.0.join("below/state"));
        for round in 0..3 {
            for content in ["a", "b", "c"] {
                check(&mut replaced, content);
            }
            match round {
                0 => fs::write(&replaced.beside, "in the way").unwrap(),
                1 => fs::remove_file(&replaced.path).unwrap(),
                _ => fs::remove_dir_all(directory.0.join("below")).unwrap(),
            }
            assert_eq!(replaced.append(b"+"), round == 0, "nobody would ever read it");
            check(&mut replaced, "afterwards");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error() {
        let directory = Directory::new("missing");
        let mut replaced = Replaced::new(directory.0.join("missing/too/state"));
        assert_eq!(replaced.replace(b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
