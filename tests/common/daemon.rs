//! The daemon as a child process in a namespace: started, listened to, signalled, stopped.

use std::env;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::PATIENCE;
use super::manager::FdStore;
use super::net::Namespace;
use super::process::{pid, proc_file, wait};

/// Longest time between two looks at what a daemon that says nothing may have changed.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A daemon as it is installed in a namespace: program, configuration file, arguments and runtime
/// directory, which stay the same from one start to the next.
pub(crate) struct Installation {
    namespace: Namespace,
    program: PathBuf,
    directory: PathBuf,
    environment: Vec<(&'static str, &'static str)>,
    store: Option<FdStore>,
}

impl Installation {
    /// The program in a namespace, with an empty configuration file and `--debug`.
    pub(crate) fn new(namespace: &Namespace, program: impl Into<PathBuf>) -> Self {
        let directory = PathBuf::from(format!("/run/mptcpd-{}", namespace.name()));
        fs::create_dir_all(directory.join("state")).expect("a private /run");
        let installation = Self {
            namespace: namespace.clone(),
            program: program.into(),
            directory,
            environment: Vec::new(),
            store: None,
        };
        installation.configure("");
        installation
    }

    /// Sets a variable in the daemon's environment.
    pub(crate) fn with_variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Has the service manager keep descriptors from one start to the next.
    pub(crate) fn with_store(mut self, store: &FdStore) -> Self {
        self.store = Some(store.clone());
        self
    }

    /// Writes the configuration file, safe permissions whatever the umask.
    pub(crate) fn configure(&self, text: &str) {
        let path = self.configuration();
        fs::write(&path, text).expect("a private /run");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("a file of ours");
    }

    /// The path of the configuration file.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.directory.join("mptcpd.conf")
    }

    /// The path of one of the files that outlive the daemon.
    pub(crate) fn state_file(&self, name: &str) -> PathBuf {
        let inode = self.namespace.enter(|| fs::metadata("/proc/thread-self/ns/net")).expect("a namespace").ino();
        self.directory.join("state").join(format!("{name}-{inode}"))
    }

    /// A command that runs the daemon with these arguments besides `--config`; spawn it in the
    /// namespace.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        self.arrange(&mut command);
        command.args(arguments);
        command
    }

    /// The same without any capability, as any user starts it.
    pub(crate) fn command_without_capabilities(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--"]).arg(&self.program);
        self.arrange(&mut command);
        command
    }

    fn arrange(&self, command: &mut Command) {
        command.arg(format!("--config={}", self.configuration().display())).arg("--log=stderr");
        command.env("RUNTIME_DIRECTORY", self.directory.join("state")).env_remove("NOTIFY_SOCKET");
        command.envs(self.environment.iter().copied()).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    }

    /// Starts the daemon with these arguments besides `--config` and `--debug`, and waits until it is
    /// ready.
    pub(crate) fn start(&self, arguments: &[&str]) -> Daemon {
        self.start_heard(arguments, Hearing::All)
    }

    /// The same, where nothing of what the daemon logs may ever be read.
    pub(crate) fn start_heard(&self, arguments: &[&str], hearing: Hearing) -> Daemon {
        let socket = self.directory.join("notify");
        let _ = fs::remove_file(&socket);
        let notifications = UnixDatagram::bind(&socket).expect("a private /run");
        let mut command = self.command(arguments);
        command.arg("--debug").env("NOTIFY_SOCKET", socket);
        let mut child = self.spawn(command);
        let stderr = child.stderr.take().expect("piped");
        let (silence, silent) = channel();
        let (lines, held) = match hearing {
            Hearing::All => (read_lines(stderr), None),
            Hearing::Nothing => (silent, Some((silence, Some(stderr)))),
            Hearing::Gone => (silent, Some((silence, None))),
        };
        let store = self.store.clone().unwrap_or_default();
        let mut daemon = Daemon { child, notifications, store, lines, said: Vec::new(), _held: held };
        daemon.notified("READY=1");
        daemon
    }

    fn spawn(&self, mut command: Command) -> Child {
        let Some(store) = &self.store else {
            return self.namespace.enter(|| command.spawn()).expect("the daemon's program");
        };
        let (mut handing, _descriptors) = store.hand_over(&command);
        handing.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).current_dir("/");
        self.namespace.enter(|| handing.spawn()).expect("bash")
    }

    /// Runs a command of the daemon that is to end by itself at once.
    pub(crate) fn run(&self, mut command: Command) -> Ended {
        let mut child = self.namespace.enter(|| command.spawn()).expect("the daemon's program");
        let lines = read_lines(child.stderr.take().expect("piped"));
        let Some(status) = wait(&mut child, PATIENCE) else {
            child.kill().expect("the child is ours");
            let said: Vec<_> = lines.iter().collect();
            panic!("the daemon did not end by itself; it said\n{}", said.join("\n"));
        };
        Ended { status, said: lines.iter().collect() }
    }
}

/// The program under test: the one that cargo built, or another to which the environment variable
/// `MPTCPD_TEST_PROGRAM` points, such as an installed one.
pub(crate) fn program_under_test(built: &str) -> PathBuf {
    env::var_os("MPTCPD_TEST_PROGRAM").unwrap_or_else(|| built.into()).into()
}

/// How a daemon ended that was to end by itself.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) said: Vec<String>,
}

fn read_lines(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// What becomes of what the daemon logs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hearing {
    /// It is read.
    All,
    /// The pipe stays open, and full.
    Nothing,
    /// Nobody has the other end of the pipe.
    Gone,
}

/// A running daemon. Dropping it kills it, and shows what it said if a test is failing.
pub(crate) struct Daemon {
    child: Child,
    notifications: UnixDatagram,
    /// What it gave to the service manager, for the next as far as that is asked for.
    store: FdStore,
    lines: Receiver<String>,
    said: Vec<String>,
    /// Where nothing is heard: the sender that keeps `lines` open, and the pipe that nobody reads.
    _held: Option<(Sender<String>, Option<ChildStderr>)>,
}

impl Daemon {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The processor time that it has used, to 10 ms.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = proc_file(self.pid(), "stat");
        let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
        let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number"));
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    /// The memory that is its own, in KiB. Not that of files: whether a page of the program is private
    /// depends on who else runs it.
    pub(crate) fn private_memory(&self) -> u64 {
        let rollup = proc_file(self.pid(), "smaps_rollup");
        let row = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
        row.and_then(|row| row.split_whitespace().next()?.parse().ok()).expect("a number")
    }

    /// What it has logged above debug since it was ready.
    pub(crate) fn remarks(&mut self) -> Vec<String> {
        let after_ready = self.said().iter().skip_while(|line| !line.ends_with("INFO ready")).skip(1);
        after_ready.filter(|line| !is_debug(line)).cloned().collect()
    }

    /// What it has logged so far.
    pub(crate) fn said(&mut self) -> &[String] {
        self.said.extend(self.lines.try_iter());
        &self.said
    }

    /// Takes what it has logged so far, which is forgotten here; nothing of it is waited for any more.
    pub(crate) fn take_said(&mut self) -> Vec<String> {
        self.said();
        std::mem::take(&mut self.said)
    }

    /// Waits for a line of a notification to the service manager.
    pub(crate) fn notified(&mut self, wanted: &str) {
        self.notified_of(|line| line == wanted, wanted);
    }

    /// Waits for a line of a notification, and returns it; `what` says which.
    pub(crate) fn notified_of(&mut self, wanted: impl Fn(&str) -> bool, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while let Some(left) = time_left(deadline) {
            // Short, so that a daemon that has ended instead is noticed.
            self.notifications.set_read_timeout(Some(left.min(LOOK_AGAIN))).expect("a time above 0");
            let message = self.store.receive(&self.notifications).unwrap_or_default();
            if let Some(line) = message.lines().find(|line| wanted(line)) {
                return line.to_owned();
            }
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                panic!("the daemon ended ({status}) instead of sending {what}");
            }
        }
        panic!("the daemon did not send {what} within {PATIENCE:?}");
    }

    /// Takes the notifications that have come; none of them is waited for any more.
    pub(crate) fn notifications(&mut self) -> Vec<String> {
        self.notifications.set_nonblocking(true).expect("a socket of ours");
        let all = std::iter::from_fn(|| self.store.receive(&self.notifications)).collect();
        self.notifications.set_nonblocking(false).expect("a socket of ours");
        all
    }

    /// Waits until a check holds, looking again whenever the daemon logs a line.
    pub(crate) fn eventually(&mut self, what: &str, mut check: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !check() {
            let Some(left) = time_left(deadline) else { panic!("not within {PATIENCE:?}: {what}") };
            let lives = self.listen(left.min(LOOK_AGAIN));
            assert!(lives || check(), "the daemon ended before this held: {what}");
        }
    }

    /// Waits until it logs something, or until the time is over; `false` if it has ended.
    pub(crate) fn listen(&mut self, patience: Duration) -> bool {
        let heard = self.lines.recv_timeout(patience);
        let lives = heard != Err(RecvTimeoutError::Disconnected);
        self.said.extend(heard.into_iter().chain(self.lines.try_iter()));
        lives
    }

    /// Waits for a line that contains all these words, after the first `from` lines.
    pub(crate) fn wait_line(&mut self, from: usize, words: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let matches = |line: &&String| words.iter().all(|word| line.contains(word));
            if let Some(line) = self.said().iter().skip(from).find(matches) {
                return line.clone();
            }
            let line = time_left(deadline).and_then(|left| self.lines.recv_timeout(left).ok());
            self.said.push(line.unwrap_or_else(|| panic!("no line with {words:?} within {PATIENCE:?}")));
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(&self.child), signal).expect("the child is ours and was not waited for");
    }

    /// Suspends it and returns when it stands still.
    pub(crate) fn suspend(&self) {
        self.signal(Signal::STOP);
        waitid(WaitId::Pid(pid(&self.child)), WaitIdOptions::STOPPED).expect("the child is ours");
    }

    /// Lets it go on after [`suspend`](Self::suspend).
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to stop, waits until it has and checks that it did so cleanly.
    pub(crate) fn stop(self) {
        self.stop_by(Signal::TERM);
    }

    /// The same with another signal.
    pub(crate) fn stop_by(mut self, signal: Signal) {
        self.signal(signal);
        let status = wait(&mut self.child, PATIENCE);
        assert!(status.is_some_and(|status| status.success()), "after {signal:?}: {status:?}, not a clean end");
    }

    /// Waits until it ends by itself.
    pub(crate) fn ends(mut self) -> ExitStatus {
        wait(&mut self.child, PATIENCE).expect("the daemon ends")
    }

    /// Kills it, with no chance to do anything more.
    pub(crate) fn kill_dash_9(mut self) {
        self.child.kill().expect("the child is ours");
        self.child.wait().expect("the child is ours");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What it gave to the manager last is kept too.
        let _ = self.notifications();
        if thread::panicking() {
            eprintln!("--- the daemon said ---\n{}\n---", self.said().join("\n"));
        }
    }
}

fn time_left(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

/// Whether a line is one of the debug log, in either of the forms on stderr.
pub(crate) fn is_debug(line: &str) -> bool {
    line.split(' ').take(4).any(|word| matches!(word, "DEBUG" | "DEBG"))
}
