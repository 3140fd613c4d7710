//! Child processes: run to the end, or waited for with a deadline.

use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Runs a command to its end and returns what it wrote to stdout, or why it failed.
pub(crate) fn output_of(command: &mut Command) -> Result<String, String> {
    let shown = format!("{} {}", command.get_program().to_string_lossy(), arguments(command));
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("cannot run {shown}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()))
}

fn arguments(command: &Command) -> String {
    command.get_args().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The process id of a child that has not been waited for.
pub(crate) fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Waits for a child to end; `None` if it has not when the time is over.
pub(crate) fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let pidfd = pidfd_open(pid(child), PidfdFlags::empty()).expect("pidfd_open (Linux 5.3)");
    let timeout = Timespec::try_from(patience).expect("a short time");
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).expect("poll on a pidfd");
    (ended > 0).then(|| child.wait().expect("the child is ours"))
}

/// Reads a file of the directory that proc(5) has for a process, by its id in this sandbox.
pub(crate) fn proc_file(process: u32, file: &str) -> String {
    static MOUNTED: OnceLock<()> = OnceLock::new();
    // The one that is mounted is that of the processes outside.
    MOUNTED.get_or_init(|| {
        fs::create_dir_all("/run/proc").expect("a private /run");
        output_of(Command::new("mount").args(["-t", "proc", "proc", "/run/proc"])).expect("processes of the sandbox");
    });
    let path = format!("/run/proc/{process}/{file}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}
