//! The sysctl that selects who manages new connections: read, written, and told of.

use std::{fs, io};

use slog::{info, warn};

use super::Daemon;
use crate::plugin::Manages;
use crate::selection::{Selection, Step};
use crate::state_file::Selected;
use crate::sys;
use crate::types::Selector;

const DIRECTORY: &str = "/proc/sys/net/mptcp";

/// Why the value cannot be read.
enum Unreadable {
    /// There is no /proc, or it is hidden.
    Hidden,
    /// Linux before 5.19 has but the kernel's own path manager.
    KernelOnly,
}

fn path(selector: Selector) -> String {
    format!("{DIRECTORY}/{selector}")
}

fn read() -> Result<Selected, Unreadable> {
    // Writing to one of them changes the other; the older one does not know every value.
    for selector in [Selector::PathManager, Selector::PmType] {
        let text = fs::read_to_string(path(selector)).unwrap_or_default();
        if let Some(value) = text.split_whitespace().next() {
            return Ok(Selected { selector, value: value.to_owned() });
        }
    }
    let hidden = !fs::exists(format!("{DIRECTORY}/enabled")).unwrap_or(false);
    Err(if hidden { Unreadable::Hidden } else { Unreadable::KernelOnly })
}

fn write(selected: &Selected) -> io::Result<()> {
    fs::write(path(selected.selector), &selected.value)
}

impl Daemon {
    /// Sees to it that new connections are under the manager that the path manager needs, or says why
    /// they are not.
    pub(super) fn select_path_manager(&mut self) {
        let is = match read() {
            Ok(is) => is,
            Err(why) => return self.tell_unreadable(&why),
        };
        match self.selection.settle(&is, self.manages(), self.sysctl) {
            Step::Nothing => {}
            Step::Warn => self.tell_wrong(&is),
            Step::Set(wanted) => {
                // Remembered first: killed in between, the next run finds the value that was there.
                self.store.remember(self.selection.original());
                if !self.write_selected(&is, &wanted) {
                    let _ = self.selection.end(&is);
                }
            }
            Step::PutBack(original) => {
                if self.write_selected(&is, &original) {
                    self.tell_wrong(&original);
                } else {
                    self.selection = Selection::new(Some(original));
                }
            }
        }
        self.store.remember(self.selection.original());
    }

    /// Puts back what was there before the daemon came, unless somebody changed it since.
    pub(super) fn put_path_manager_back(&mut self) {
        let Ok(is) = read() else { return };
        if let Some(original) = self.selection.end(&is) {
            if !self.write_selected(&is, &original) {
                self.selection = Selection::new(Some(original));
            }
        }
    }

    fn manages(&self) -> Manages {
        if self.engine.manages_connections() { Manages::Connections } else { Manages::Endpoints }
    }

    fn write_selected(&self, was: &Selected, wanted: &Selected) -> bool {
        let Selected { selector, value } = wanted;
        match write(wanted) {
            Ok(()) => {
                info!(
                    self.log,
                    "net.mptcp.{} is now \"{}\" (was \"{}\"), for new connections", selector, value, was.value
                );
                true
            }
            Err(error) => {
                warn!(
                    self.log,
                    "cannot write {} to {}: {}; set it with `sysctl -w net.mptcp.{}={}`{}",
                    value,
                    path(*selector),
                    sys::errno(&error),
                    selector,
                    value,
                    what_to_allow(&error)
                );
                false
            }
        }
    }

    fn tell_wrong(&self, is: &Selected) {
        let (selector, needed) = (is.selector, is.selector.needed(self.manages()));
        if is.value == needed {
            return;
        }
        let without_effect = match self.manages() {
            Manages::Endpoints => "endpoints have no effect on connections made under it",
            Manages::Connections => "connections made under it are not managed",
        };
        warn!(
            self.log,
            "net.mptcp.{} is \"{}\": {}; set it with `sysctl -w net.mptcp.{}={}`",
            selector,
            is.value,
            without_effect,
            selector,
            needed
        );
    }

    fn tell_unreadable(&self, why: &Unreadable) {
        match (why, self.manages()) {
            (_, Manages::Endpoints) => {}
            (Unreadable::Hidden, Manages::Connections) => info!(
                self.log,
                "cannot tell who manages new connections: {} is not there; net.mptcp.path_manager has to be \"userspace\"",
                DIRECTORY
            ),
            (Unreadable::KernelOnly, Manages::Connections) => warn!(
                self.log,
                "this kernel manages every connection itself: use Linux 5.19 or later, or a path manager for endpoints"
            ),
        }
    }
}

/// The rest of the remedy, where a service may lack a permission.
fn what_to_allow(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ", or let the daemon write there (CAP_NET_ADMIN; ReadWritePaths=/proc/sys/net/mptcp in its unit)"
        }
        _ => "",
    }
}
