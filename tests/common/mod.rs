//! What tests on a real kernel and the demo share: a sandbox of namespaces, a small network in it,
//! the daemon as a child process, and MPTCP connections that count and check their bytes.

pub(crate) mod announcer;
pub(crate) mod crowd;
pub(crate) mod daemon;
pub(crate) mod descriptors;
pub(crate) mod manager;
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod sandbox;
pub(crate) mod traffic;

use std::time::Duration;

/// How long anything that is bound to happen may take on a busy machine; never a measurement. Longer
/// than the 30 s after which the daemon at the latest looks at everything once more.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);
