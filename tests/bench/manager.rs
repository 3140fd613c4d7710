//! What manages the paths at the client.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fmt, thread};

use rustix::process::{Signal, kill_process_group};

use crate::common::daemon::{Daemon, Installation, program_under_test};
use crate::common::net::client_v4;
use crate::common::process::{output_of, pid};
use crate::lab::Lab;

/// How long a program of which nothing is known is given to be ready.
const SETTLE: Duration = Duration::from_millis(500);

/// Who decides which paths there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Manager {
    /// Nobody: there is the initial subflow.
    Nobody,
    /// The kernel, with endpoints made once.
    Kernel,
    /// The daemon, with this path manager.
    Ours(String),
    /// Another program: a command for sh(1).
    Other(String),
}

impl Manager {
    /// From a name on the command line.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        match name.split_once(':') {
            Some(("cmd", command)) => Ok(Self::Other(command.to_owned())),
            _ if name == "none" => Ok(Self::Nobody),
            _ if name == "kernel" => Ok(Self::Kernel),
            _ => {
                let known = path_managers()?;
                let is_known = known.iter().any(|known| known == name);
                let list = known.join(", ");
                is_known.then(|| Self::Ours(name.to_owned())).ok_or_else(|| {
                    format!("no path manager {name}: there are none, kernel, {list}, and cmd:COMMAND for others")
                })
            }
        }
    }

    /// Starts it at the client.
    pub(crate) fn start(&self, lab: &Lab) -> Running {
        match self {
            Self::Nobody => Running::Nothing,
            Self::Kernel => {
                for link in 0..2 {
                    lab.client.ip(&format!("mptcp endpoint add {} dev c{link} subflow", client_v4(link)));
                }
                Running::Nothing
            }
            Self::Ours(name) => {
                let daemon = Installation::new(&lab.client, program()).start(&[&format!("--path-manager={name}")]);
                Running::Ours(Box::new(daemon))
            }
            Self::Other(command) => Running::Other(Program::start(lab, command)),
        }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("none"),
            Self::Kernel => f.write_str("kernel"),
            Self::Ours(name) => f.write_str(name),
            Self::Other(command) => {
                let program = command.split(' ').next().unwrap_or(command);
                f.write_str(program.rsplit('/').next().unwrap_or(program))
            }
        }
    }
}

fn program() -> std::path::PathBuf {
    program_under_test(env!("CARGO_BIN_EXE_mptcpd"))
}

/// The names of those that are built in.
fn path_managers() -> Result<Vec<String>, String> {
    let list = output_of(Command::new(program()).arg("--list-plugins"))?;
    Ok(list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// What runs for as long as this lives.
pub(crate) enum Running {
    Nothing,
    Ours(Box<Daemon>),
    Other(Program),
}

impl Running {
    /// Whether it still does.
    pub(crate) fn lives(&mut self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Ours(daemon) => daemon.listen(Duration::ZERO),
            Self::Other(Program(child)) => child.try_wait().expect("the child is ours").is_none(),
        }
    }
}

/// A program and all that it starts.
pub(crate) struct Program(Child);

impl Program {
    fn start(lab: &Lab, command: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = lab.client.enter(|| shell.spawn()).expect("sh");
        // There is nothing that would tell.
        thread::sleep(SETTLE);
        assert!(child.try_wait().expect("the child is ours").is_none(), "this ended at once: {command}");
        Self(child)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill_process_group(pid(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}
