//! Many connections and many interfaces: right afterwards, nothing kept, nothing in the log above debug.

use std::thread;
use std::time::{Duration, Instant};

use super::common::crowd::Crowd;
use super::common::daemon::Daemon;
use super::common::net::{Net, Router, SERVICE_V4, client_v4};
use super::common::sandbox::{measured, sandboxed};
use super::{service, start_managing, wait_for_paths};
