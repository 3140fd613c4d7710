//! Writes lines to a descriptor that others may share, such as stderr, without ever waiting for it.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::retry_on_intr;

/// A pipe that is ready takes this much at once, whole (`PIPE_BUF`, include/uapi/linux/limits.h).
const PIECE: usize = 4096;

/// Lines to a descriptor; a line that it does not take now is an error, not a wait.
pub(super) struct Writer<W> {
    shared: W,
    /// The same pipe or terminal, opened once more so as not to block, if that is allowed.
    own: Option<OwnedFd>,
    /// Only the start of the line before was taken.
    torn: bool,
}

impl<W: AsFd> Writer<W> {
    pub(super) fn new(shared: W) -> Self {
        let own = open_again(shared.as_fd());
        Self { shared, own, torn: false }
    }

    /// Whether a line has a chance now.
    pub(super) fn ready(&self) -> bool {
        writable(self.descriptor())
    }

    /// Writes a line that ends with its end of line.
    pub(super) fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if !self.torn {
            return self.write_pieces(line);
        }
        let mut ended = b"\n".to_vec();
        ended.extend_from_slice(line);
        self.write_pieces(&ended)
    }

    fn write_pieces(&mut self, line: &[u8]) -> io::Result<()> {
        for piece in line.chunks(PIECE) {
            let taken = self.write_piece(piece)?;
            self.torn = true;
            if taken < piece.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.torn = false;
        Ok(())
    }

    fn write_piece(&self, piece: &[u8]) -> io::Result<usize> {
        if !self.ready() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(retry_on_intr(|| rustix::io::write(self.descriptor(), piece))?)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.own.as_ref().map_or_else(|| self.shared.as_fd(), AsFd::as_fd)
    }
}

/// Whether the descriptor takes data now and somebody is there to read it.
pub(super) fn writable(descriptor: impl AsFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut watched = [PollFd::new(&descriptor, PollFlags::OUT)];
    let polled = retry_on_intr(|| poll(&mut watched, Some(&now)));
    let found = watched.first().map_or(PollFlags::empty(), PollFd::revents);
    polled.is_ok() && found.contains(PollFlags::OUT) && !found.intersects(PollFlags::ERR | PollFlags::HUP)
}

/// O_NONBLOCK belongs to the open file, which others share; a pipe or terminal can be opened once
/// more through /proc. A file cannot: a second opening would write from its start.
fn open_again(descriptor: BorrowedFd<'_>) -> Option<OwnedFd> {
    let kind = FileType::from_raw_mode(fstat(descriptor).ok()?.st_mode);
    if kind != FileType::Fifo && !descriptor.is_terminal() {
        return None;
    }
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).ok()
}

impl Writer<File> {
    /// Only what was handed over, never opened again.
    #[cfg(test)]
    fn shared_only(file: File) -> Self {
        Self { shared: file, own: None, torn: false }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::{Duration, Instant};

    use super::*;

    fn pipe() -> (File, File) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        (reader.into(), writer.into())
    }

    fn both_ways(check: impl Fn(Writer<File>, File)) {
        let (reader, writer) = pipe();
        let again = Writer::new(writer);
        assert!(again.own.is_some());
        check(again, reader);
        let (reader, writer) = pipe();
        check(Writer::shared_only(writer), reader);
    }

    fn fill(writer: &mut Writer<File>) -> usize {
        let started = Instant::now();
        let line = [b'x'; 100];
        let lines = (0..100_000).take_while(|_| writer.write_line(&line).is_ok()).count();
        assert!(started.elapsed() < Duration::from_secs(5), "waited for a full pipe");
        lines
    }

    #[test]
    fn a_line_longer_than_a_piece_arrives_whole() {
        both_ways(|mut writer, mut reader| {
            let line: Vec<u8> = (0..10_000).map(|number| b'a' + (number % 26) as u8).collect();
            writer.write_line(&line).unwrap();
            drop(writer);
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            assert!(read == line);
        });
    }

    #[test]
    fn a_full_pipe_refuses_lines_at_once_and_takes_them_again_when_read() {
        both_ways(|mut writer, mut reader| {
            let lines = fill(&mut writer);
            assert!((10..100_000).contains(&lines), "{lines}");
            assert!(!writer.ready());
            assert_eq!(writer.write_line(b"x\n").unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let mut page = vec![0; PIECE];
            reader.read_exact(&mut page).unwrap();
            writer.write_line(b"x\n").unwrap();
        });
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        both_ways(|mut writer, mut reader| {
            let long = vec![b'l'; 200 * 1024];
            assert!(writer.write_line(&long).is_err());
            let mut page = vec![0; PIECE];
            reader.read_exact(&mut page).unwrap();
            writer.write_line(b"next\n").unwrap();
            drop(writer);
            let mut rest = String::new();
            reader.read_to_string(&mut rest).unwrap();
            assert!(rest.ends_with("ll\nnext\n"));
        });
    }

    #[test]
    fn a_reader_that_died_is_an_error_and_not_a_signal() {
        both_ways(|mut writer, reader| {
            drop(reader);
            assert!(!writer.ready());
            assert!(writer.write_line(b"x\n").is_err());
        });
    }

    #[test]
    fn the_shared_pipe_stays_blocking() {
        let (_reader, writer) = pipe();
        let writer = Writer::new(writer);
        assert!(!rustix::fs::fcntl_getfl(&writer.shared).unwrap().contains(OFlags::NONBLOCK));
        let own = writer.own.as_ref().unwrap();
        assert!(rustix::fs::fcntl_getfl(own).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn a_file_is_never_opened_again() {
        let file = File::open("/dev/null").unwrap();
        assert!(Writer::new(file).own.is_none());
    }
}
