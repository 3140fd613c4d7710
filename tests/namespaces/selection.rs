//! Who manages new connections: the sysctl is set where the path manager needs it, stays for the next
//! start, and is put back where that was asked for and nobody else changed it.

use rustix::process::Signal;

use super::common::daemon::{Daemon, Installation};
use super::common::net::{Namespace, Net};
use super::common::sandbox::sandboxed;
use super::installed;

const SYSCTL: &str = "net.mptcp.path_manager";
const CONNECTIONS: &str = "--path-manager=sspi";
const REMOVE: &str = "--on-stop=remove";

fn selected(namespace: &Namespace) -> String {
    namespace.sysctl(SYSCTL)
}

/// What the daemon has said of the sysctl until it was ready, time left out.
fn said(daemon: &mut Daemon) -> Vec<String> {
    daemon.wait_line(0, &["ready"]);
    let said = daemon.said().iter();
    said.filter_map(|line| Some(line.get(line.find(SYSCTL)?..)?.to_owned())).collect()
}

fn start_and_stop(here: &Installation, arguments: &[&str]) {
    here.start(arguments).stop();
}

#[test]
fn user_space_is_selected_once_and_stays_so_from_one_start_to_the_next() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        assert_eq!(selected(&net.client), "kernel");
        let mut daemon = here.start(&[CONNECTIONS]);
        assert_eq!(selected(&net.client), "userspace");
        assert_eq!(said(&mut daemon), [format!("{SYSCTL} is now \"userspace\" (was \"kernel\"), for new connections")]);
        for _ in 0..2 {
            daemon.stop();
            assert_eq!(selected(&net.client), "userspace");
            daemon = here.start(&[CONNECTIONS]);
            assert_eq!(said(&mut daemon), [""; 0]);
        }
        assert_eq!(selected(&net.server), "kernel", "another namespace is not touched");
    });
}

#[test]
fn where_it_is_only_checked_the_remedy_is_said_and_nothing_changed() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        here.configure("[core]\nsysctl = \"check\"\n");
        let mut daemon = here.start(&[CONNECTIONS, REMOVE]);
        daemon.wait_line(0, &["\"kernel\"", "sysctl -w net.mptcp.path_manager=userspace"]);
        assert_eq!(selected(&net.client), "kernel");
        net.client.set_sysctl(SYSCTL, "userspace");
        daemon.stop();
        assert_eq!(selected(&net.client), "userspace");
    });
}

#[test]
fn the_first_value_is_put_back_by_the_run_that_is_to_remove_whatever_the_earlier_ones_did() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        start_and_stop(&here, &[CONNECTIONS, REMOVE]);
        assert_eq!(selected(&net.client), "kernel");
        start_and_stop(&here, &[CONNECTIONS]);
        here.start(&[CONNECTIONS, REMOVE]).kill_dash_9();
        here.start(&[CONNECTIONS]).kill_dash_9();
        assert_eq!(selected(&net.client), "userspace");
        start_and_stop(&here, &[CONNECTIONS, REMOVE]);
        assert_eq!(selected(&net.client), "kernel");
        net.client.set_sysctl(SYSCTL, "userspace");
        start_and_stop(&here, &[CONNECTIONS, REMOVE]);
        assert_eq!(selected(&net.client), "userspace", "what was put back is not put back again");
    });
}

#[test]
fn the_first_value_is_remembered_beside_endpoints_that_come_and_go() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        for arguments in [&["--load-plugins=sspi,addr_adv"][..], &["--load-plugins=sspi,addr_adv", REMOVE]] {
            let mut daemon = here.start(&[&[CONNECTIONS], arguments].concat());
            super::settle(&mut daemon, &net.client, "c0");
            super::settle(&mut daemon, &net.client, "c0");
            daemon.kill_dash_9();
        }
        start_and_stop(&here, &[CONNECTIONS, REMOVE]);
        assert_eq!((selected(&net.client).as_str(), net.client.endpoints()), ("kernel", vec![]));
    });
}

#[test]
fn what_an_administrator_selected_is_left_alone() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        net.client.set_sysctl(SYSCTL, "userspace");
        let mut daemon = here.start(&[CONNECTIONS, REMOVE]);
        assert_eq!(said(&mut daemon), [""; 0]);
        daemon.stop();
        assert_eq!(selected(&net.client), "userspace");
    });
}

#[test]
fn what_an_administrator_selected_in_between_is_left_alone() {
    sandboxed(|| {
        let net = Net::v4(1);
        for changed in [&["--sysctl=check", CONNECTIONS], &["--sysctl=set", "--path-manager=addr_adv"]] {
            net.client.set_sysctl(SYSCTL, "kernel");
            let here = installed(&net.client);
            here.start(&[CONNECTIONS]).kill_dash_9();
            net.client.set_sysctl(SYSCTL, "kernel");
            start_and_stop(&here, changed);
            assert_eq!(selected(&net.client), "kernel");
            net.client.set_sysctl(SYSCTL, "userspace");
            start_and_stop(&here, &[CONNECTIONS, REMOVE]);
            assert_eq!(selected(&net.client), "userspace", "{changed:?}");
        }
        net.client.set_sysctl(SYSCTL, "kernel");
        let daemon = installed(&net.client).start(&[CONNECTIONS, REMOVE]);
        net.client.set_sysctl(SYSCTL, "kernel");
        daemon.stop();
        assert_eq!(selected(&net.client), "kernel");
    });
}

#[test]
fn another_kind_of_path_manager_after_a_reload_selects_what_it_needs() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        let mut daemon = here.start(&[]);
        for (name, wanted) in [("sspi", "userspace"), ("addr_adv", "kernel"), ("sspi", "userspace")] {
            here.configure(&format!("[core]\npath-manager = \"{name}\"\non-stop = \"remove\"\n"));
            let from = daemon.said().len();
            daemon.signal(Signal::HUP);
            daemon.wait_line(from, &[SYSCTL, &format!("is now {wanted:?}")]);
            assert_eq!(selected(&net.client), wanted);
        }
        daemon.kill_dash_9();
        let mut daemon = here.start(&["--path-manager=addr_adv"]);
        assert_eq!(selected(&net.client), "kernel", "what the daemon selected is in nobody's way");
        assert_eq!(said(&mut daemon).len(), 1);
    });
}

#[test]
fn a_kernel_that_knows_path_managers_by_number_only_is_told_the_number() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        // As Linux 5.19 to 6.14 have it: what reads as nothing is not there.
        net.client.run("mount", "--bind /dev/null /proc/sys/net/mptcp/path_manager");
        let number = || net.client.sysctl("net.mptcp.pm_type");
        let mut daemon = here.start(&[CONNECTIONS]);
        daemon.wait_line(0, &["net.mptcp.pm_type is now \"1\" (was \"0\")"]);
        assert_eq!(number(), "1");
        daemon.kill_dash_9();
        start_and_stop(&here, &[CONNECTIONS, REMOVE]);
        assert_eq!(number(), "0");
        net.client.run("mount", "--bind /dev/null /proc/sys/net/mptcp/pm_type");
        let mut daemon = here.start(&[CONNECTIONS, REMOVE]);
        daemon.wait_line(0, &["WARN", "Linux 5.19"]);
        daemon.stop();
    });
}

#[test]
fn where_sysctls_are_hidden_that_is_a_notice_and_the_daemon_runs() {
    sandboxed(|| {
        let net = Net::v4(1);
        net.client.run("mount", "-t tmpfs tmpfs /proc/sys/net/mptcp");
        let mut daemon = installed(&net.client).start(&[CONNECTIONS, REMOVE]);
        daemon.wait_line(0, &["INFO", "net.mptcp.path_manager has to be \"userspace\""]);
        assert_eq!(said(&mut daemon).len(), 1);
        daemon.stop();
    });
}

#[test]
fn a_sysctl_that_cannot_be_written_is_one_warning_with_the_remedy() {
    sandboxed(|| {
        let net = Net::v4(1);
        let here = installed(&net.client);
        const DIRECTORY: &str = "/proc/sys/net/mptcp";
        net.client.run("mount", &format!("--bind {DIRECTORY} {DIRECTORY}"));
        net.client.run("mount", &format!("-o remount,bind,ro {DIRECTORY}"));
        let mut daemon = here.start(&[CONNECTIONS, REMOVE]);
        let file = format!("{DIRECTORY}/path_manager");
        daemon.wait_line(0, &["cannot write", &file, "read-only", "sysctl -w net.mptcp.path_manager=userspace"]);
        assert_eq!(said(&mut daemon).len(), 1);
        net.client.run("umount", DIRECTORY);
        net.client.set_sysctl(SYSCTL, "userspace");
        daemon.stop();
        assert_eq!(selected(&net.client), "userspace", "it is another's choice");
    });
}
