//! A sandbox for code that changes the network: the program runs itself again in user (unless it is
//! root), network, mount and process namespaces of its own, so nothing of the host is touched, tests
//! run side by side, and whatever was made or started inside vanishes with the first process.

use std::any::type_name;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{env, fs, io, thread};

use super::process;

/// Set inside the sandbox, to the name of the test that is to run.
const INSIDE: &str = "MPTCPD_SANDBOX";
/// Printed at the end of a test, so that a name that finds no test is not taken for success.
const REACHED_THE_END: &str = "reached the end of";
/// Begins a line that a test wants shown although it passed.
const MEASURED: &str = "measured: ";
/// After which a test is taken to hang.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs a test function's body in a sandbox; call it in a `#[test]` with a closure and nothing else.
///
/// Where there can be no sandbox the test is skipped with the reason on stderr, or fails if the
/// environment variable `CI` is set.
pub(crate) fn sandboxed<F: FnOnce()>(test: F) {
    sandboxed_for(DEADLINE, test);
}

/// The same for a test that may take so long.
pub(crate) fn sandboxed_for<F: FnOnce()>(deadline: Duration, test: F) {
    let name = test_name::<F>();
    if is_inside() {
        set_up();
        test();
        return eprintln!("{REACHED_THE_END} {name}");
    }
    match unavailable() {
        Some(reason) => skip(name, &reason),
        None => run_again(name, deadline),
    }
}

/// The same for a test that needs this program too.
pub(crate) fn sandboxed_with<F: FnOnce()>(program: &str, package: &str, test: F) {
    if is_inside() || process::output_of(Command::new(program).arg("-v")).is_ok() {
        return sandboxed(test);
    }
    skip(test_name::<F>(), &format!("no `{program}`: install {package}"));
}

fn skip(name: &str, reason: &str) {
    assert!(env::var_os("CI").is_none_or(|ci| ci.is_empty()), "cannot run {name}: {reason}");
    // Not by a macro, whose output the test harness keeps back from a test that passes.
    writeln!(io::stderr(), "SKIPPED {name}: {reason}").expect("stderr");
}

/// The name by which the test harness knows the function whose closure `F` is.
fn test_name<F>() -> &'static str {
    let path = type_name::<F>().trim_end_matches("::{{closure}}");
    path.split_once("::").expect("a closure inside a test function").1
}

fn run_again(name: &'static str, deadline: Duration) {
    let mut command = command(&env::current_exe().expect("own path").to_string_lossy());
    command.args([name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]).env(INSIDE, name);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let status = process::wait(&mut child, deadline);
    if status.is_none() {
        end(&mut child);
    }
    let (stdout, stderr) = (stdout.join().expect("reader"), stderr.join().expect("reader"));
    if !passed(status, &stderr, name) {
        let ended = status.map_or(format!("no end after {deadline:?}"), |status| status.to_string());
        panic!("{name}, in its sandbox: {ended}\n{stderr}\n{stdout}");
    }
    for line in stderr.lines().filter(|line| line.starts_with(MEASURED)) {
        writeln!(io::stderr(), "{line}").expect("stderr");
    }
}

/// Shows what a test measured, though it pass.
pub(crate) fn measured(what: &str) {
    eprintln!("{MEASURED}{what}");
}

fn passed(status: Option<ExitStatus>, stderr: &str, name: &str) -> bool {
    status.is_some_and(|status| status.success()) && stderr.contains(&format!("{REACHED_THE_END} {name}\n"))
}

fn collect(mut pipe: impl io::Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn end(child: &mut Child) {
    child.kill().expect("the child is ours");
    child.wait().expect("the child is ours");
}

/// Runs this program once more, with the same arguments, in a sandbox, and returns how it ended; for
/// programs that are not tests. They find [`is_inside`] true there and then call [`set_up`].
pub(crate) fn run_program_inside() -> io::Result<ExitStatus> {
    let mut command = command(&env::current_exe()?.to_string_lossy());
    command.args(env::args_os().skip(1)).env(INSIDE, "1");
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    let _held_open = child.stdin.take();
    child.wait()
}

/// Whether this process was started in a sandbox.
pub(crate) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Makes the sandbox ready: a private /run, and an end to it when the process outside has gone.
pub(crate) fn set_up() {
    end_with_the_process_outside();
    let mount = process::output_of(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]));
    mount.expect("a private /run");
}

/// The process outside holds the other end of stdin and never writes to it. `unshare --kill-child`
/// is not enough: it says nothing of the death of whoever started `unshare`.
fn end_with_the_process_outside() {
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
}

/// Why there can be no sandbox here, with what to do about it; `None` if there can.
pub(crate) fn unavailable() -> Option<String> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    REASON.get_or_init(|| try_out().err()).clone()
}

fn try_out() -> Result<(), String> {
    if !fs::exists("/proc/sys/net/mptcp").unwrap_or(false) {
        return Err("this kernel has no MPTCP (CONFIG_MPTCP)".to_owned());
    }
    for program in ["unshare", "ip", "ss"] {
        let package = if program == "unshare" { "util-linux" } else { "iproute2" };
        process::output_of(Command::new(program).arg("-V"))
            .map_err(|_| format!("no `{program}`: install {package}"))?;
    }
    let trial = command("sh").args(["-c", TRIAL]).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if trial.status.success() {
        return Ok(());
    }
    let remedy = if is_root() { "run it with CAP_SYS_ADMIN" } else { "allow user namespaces or run it as root" };
    let said = String::from_utf8_lossy(&trial.stderr);
    Err(format!("cannot make network namespaces: {remedy} ({})", said.lines().last().unwrap_or("no reason given")))
}

/// What everything in a sandbox needs.
const TRIAL: &str = "mount -t tmpfs tmpfs /run && ip netns add trial && \
    ip link add veth0 type veth peer name veth1 && ip mptcp limits";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs `program` as the first process of a sandbox.
fn command(program: &str) -> Command {
    let mut command = Command::new("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--", program]);
    command
}
