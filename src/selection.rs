//! Who manages the connections made from now on: what the sysctl for it should be, and which value is to
//! be put back at the end. A connection keeps for life the manager that it was made under.
//!
//! Pure: the sysctl is read and written elsewhere.

use crate::plugin::Manages;
use crate::state_file::Selected;
use crate::types::{Selector, Sysctl};

impl Selector {
    /// The value for connections to be managed by the kernel's own path manager.
    pub(crate) const fn kernel(self) -> &'static str {
        match self {
            Self::PathManager => "kernel",
            Self::PmType => "0",
        }
    }

    /// The value for connections to be managed by user space.
    pub(crate) const fn userspace(self) -> &'static str {
        match self {
            Self::PathManager => "userspace",
            Self::PmType => "1",
        }
    }

    /// The value that such a path manager needs.
    pub(crate) const fn needed(self, manages: Manages) -> &'static str {
        match manages {
            Manages::Endpoints => self.kernel(),
            Manages::Connections => self.userspace(),
        }
    }
}

impl Selected {
    fn is_userspace(&self) -> bool {
        self.value == self.selector.userspace()
    }
}

/// What is to be done about the sysctl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is as it should be.
    Nothing,
    /// It is to be set to this.
    Set(Selected),
    /// What the daemon set earlier is to give way to this, which was there before.
    PutBack(Selected),
    /// It is wrong and not for the daemon to set.
    Warn,
}

/// What the daemon knows of values before its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    original: Option<Selected>,
}

impl Selection {
    /// With what an earlier run found, if that run set another value.
    pub(crate) const fn new(original: Option<Selected>) -> Self {
        Self { original }
    }

    /// The value to be put back at the end.
    pub(crate) const fn original(&self) -> Option<&Selected> {
        self.original.as_ref()
    }

    /// What to do, now that this is the value. If somebody changed it since the daemon did, theirs is
    /// the one to be put back, if any.
    pub(crate) fn settle(&mut self, is: &Selected, manages: Manages, choice: Sysctl) -> Step {
        if !is.is_userspace() || self.original.as_ref().is_some_and(|original| original.selector != is.selector) {
            self.original = None;
        }
        if is.value == is.selector.needed(manages) {
            return Step::Nothing;
        }
        match (choice, manages) {
            (Sysctl::Check, _) => Step::Warn,
            (Sysctl::Set, Manages::Connections) => {
                self.original = Some(is.clone());
                Step::Set(Selected { selector: is.selector, value: is.selector.userspace().to_owned() })
            }
            // What others chose is theirs to change.
            (Sysctl::Set, Manages::Endpoints) => self.original.take().map_or(Step::Warn, Step::PutBack),
        }
    }

    /// What to put back at the end, now that this is the value; nothing if somebody changed it since.
    pub(crate) fn end(&mut self, is: &Selected) -> Option<Selected> {
        self.original.take().filter(|original| is.is_userspace() && original.selector == is.selector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(value: &str) -> Selected {
        let selector = if value.len() == 1 { Selector::PmType } else { Selector::PathManager };
        Selected { selector, value: value.to_owned() }
    }

    fn after(original: Option<&str>, is: &str, manages: Manages, choice: Sysctl) -> (Step, Option<String>) {
        let mut selection = Selection::new(original.map(selected));
        let step = selection.settle(&selected(is), manages, choice);
        (step, selection.original.map(|original| original.value))
    }

    fn value(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn for_connections_it_is_set_and_what_was_there_is_remembered() {
        let set = |original, is| after(original, is, Manages::Connections, Sysctl::Set);
        assert_eq!(set(None, "kernel"), (Step::Set(selected("userspace")), value("kernel")));
        assert_eq!(set(None, "0"), (Step::Set(selected("1")), value("0")));
        assert_eq!(set(None, "bpf"), (Step::Set(selected("userspace")), value("bpf")));
    }

    #[test]
    fn what_is_right_already_is_left_alone_and_the_first_value_of_all_is_kept() {
        let set = |original, is| after(original, is, Manages::Connections, Sysctl::Set);
        assert_eq!(set(None, "userspace"), (Step::Nothing, None));
        assert_eq!(set(Some("kernel"), "userspace"), (Step::Nothing, value("kernel")));
        assert_eq!(after(Some("0"), "1", Manages::Connections, Sysctl::Check), (Step::Nothing, value("0")));
        assert_eq!(after(None, "kernel", Manages::Endpoints, Sysctl::Set), (Step::Nothing, None));
    }

    #[test]
    fn a_value_that_somebody_set_in_between_takes_the_place_of_the_first() {
        let set = |original, is| after(original, is, Manages::Connections, Sysctl::Set);
        assert_eq!(set(Some("bpf"), "kernel"), (Step::Set(selected("userspace")), value("kernel")));
        assert_eq!(after(Some("bpf"), "kernel", Manages::Connections, Sysctl::Check), (Step::Warn, None));
        assert_eq!(after(Some("bpf"), "kernel", Manages::Endpoints, Sysctl::Set), (Step::Nothing, None));
        assert_eq!(set(Some("0"), "userspace"), (Step::Nothing, None), "of another kernel");
    }

    #[test]
    fn for_endpoints_only_what_the_daemon_set_itself_is_put_back() {
        let endpoints = |original, is| after(original, is, Manages::Endpoints, Sysctl::Set);
        assert_eq!(endpoints(None, "userspace"), (Step::Warn, None));
        assert_eq!(endpoints(Some("kernel"), "userspace"), (Step::PutBack(selected("kernel")), None));
        assert_eq!(endpoints(Some("kernel"), "bpf"), (Step::Warn, None));
        let checked = after(Some("kernel"), "userspace", Manages::Endpoints, Sysctl::Check);
        assert_eq!(checked, (Step::Warn, value("kernel")));
    }

    #[test]
    fn at_the_end_the_first_value_is_put_back_unless_somebody_changed_it_since() {
        let end = |original: Option<&str>, is| Selection::new(original.map(selected)).end(&selected(is));
        assert_eq!(end(Some("kernel"), "userspace"), Some(selected("kernel")));
        assert_eq!(end(Some("0"), "1"), Some(selected("0")));
        assert_eq!(end(Some("kernel"), "bpf"), None);
        assert_eq!(end(None, "userspace"), None);
        let mut selection = Selection::new(Some(selected("kernel")));
        selection.end(&selected("bpf"));
        assert_eq!(selection.original(), None, "nor is it by a later run");
    }
}
