//! A small file that is replaced as a whole again and again, cheaply: two files change names, so that a
//! reader finds the old content or the new, and none is ever made or freed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};

/// The file, and the one beside it that takes its place next.
pub(super) struct Replaced {
    path: PathBuf,
    beside: PathBuf,
    /// The two files behind those names, if this process wrote both.
    files: Option<(Written, Written)>,
    /// The file at the path, if this process wrote that alone.
    alone: Option<Written>,
}

/// A file, and how long its content is.
struct Written {
    file: File,
    length: usize,
}

impl Replaced {
    pub(super) fn new(path: PathBuf) -> Self {
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        Self { path, beside: beside.into(), files: None, alone: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the content in place of what was there.
    pub(super) fn replace(&mut self, content: &[u8]) -> io::Result<()> {
        if let Some((current, mut spare)) = self.files.take() {
            // Whoever removed one of them costs the short cut, not the content.
            if spare.write(content).and_then(|()| self.exchange()).is_ok() {
                self.files = Some((spare, current));
                return Ok(());
            }
        }
        let mut new = Written { file: self.create()?, length: 0 };
        new.write(content)?;
        match self.alone.take() {
            Some(current) if self.exchange().is_ok() => self.files = Some((new, current)),
            _ => {
                fs::rename(&self.beside, &self.path)?;
                self.alone = Some(new);
            }
        }
        Ok(())
    }

    fn exchange(&self) -> io::Result<()> {
        Ok(renameat_with(CWD, &self.beside, CWD, &self.path, RenameFlags::EXCHANGE)?)
    }

    /// Makes the file beside, and the directory if nobody has: the daemon may run by hand.
    fn create(&self) -> io::Result<File> {
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

impl Written {
    fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.file.write_all_at(content, 0)?;
        if content.len() < self.length {
            self.file.set_len(content.len().try_into().unwrap_or(u64::MAX))?;
        }
        self.length = content.len();
        Ok(())
    }
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

    #[test]
    fn the_content_is_always_the_last_whether_it_grew_or_shrank() {
        let directory = Directory::new("content");
        let mut replaced = Replaced::new(directory.0.join("state"));
        for content in ["a", "longer than before", "short", "", "again something", "b", "c", "d"] {
            check(&mut replaced, content);
        }
        assert!(replaced.files.is_some(), "no file is made any more");
    }

    #[test]
    fn a_reader_that_has_it_open_keeps_the_old_content_until_the_next_but_one() {
        let directory = Directory::new("reader");
        let mut replaced = Replaced::new(directory.0.join("state"));
        check(&mut replaced, "one");
        check(&mut replaced, "two");
        let open = File::open(replaced.path()).unwrap();
        check(&mut replaced, "three");
        assert_eq!(io::read_to_string(open).unwrap(), "two");
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
                0 => fs::remove_file(&replaced.beside).unwrap(),
                1 => fs::remove_file(&replaced.path).unwrap(),
                _ => fs::remove_dir_all(directory.0.join("below")).unwrap(),
            }
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
