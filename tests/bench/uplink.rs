//! When an uplink is in use, as counters of the kernel say, whatever manages the paths.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::net::Namespace;
use crate::lab::Lab;
use crate::traffic::Traffic;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(5);
/// Bytes that no attempt to open a subflow adds up to.
const USED: u64 = 3000;

/// Looks at an uplink again and again.
pub(crate) struct Watch {
    stop: Sender<()>,
    looks: JoinHandle<io::Result<History>>,
}

impl Watch {
    /// Begins, at the uplink and in the direction in which the traffic has its data.
    pub(crate) fn start(lab: &Lab, link: u8, traffic: Traffic) -> Self {
        let (router, server, (stop, stopped)) = (lab.router.clone(), lab.server.clone(), channel());
        let column = if traffic == Traffic::Download { SENT } else { RECEIVED };
        let looks = thread::spawn(move || {
            let (mut interfaces, mut mptcp) = (table(&router, "dev")?, table(&server, "netstat")?);
            let mut looks = Vec::new();
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let time = Instant::now();
                let bytes = bytes(&read(&mut interfaces)?, &format!("r{link}:"), column);
                looks.push(Look { time, bytes, joins: joins(&read(&mut mptcp)?) });
            }
            Ok(History(looks))
        });
        Self { stop, looks }
    }

    /// Ends it.
    pub(crate) fn finish(self) -> History {
        drop(self.stop);
        self.looks.join().expect("no panic").expect("counters of the kernel")
    }
}

/// A file of /proc/net in a namespace, to which the thread moves; it stays that of the namespace.
fn table(namespace: &Namespace, name: &str) -> io::Result<File> {
    namespace.move_here();
    File::open(format!("/proc/thread-self/net/{name}"))
}

fn read(table: &mut File) -> io::Result<String> {
    let mut text = String::new();
    table.rewind()?;
    table.read_to_string(&mut text)?;
    Ok(text)
}

/// Columns of /proc/net/dev.
const RECEIVED: usize = 0;
const SENT: usize = 8;

fn bytes(table: &str, interface: &str, column: usize) -> u64 {
    let row = table.lines().find_map(|line| line.trim_start().strip_prefix(interface));
    let value = row.and_then(|row| row.split_whitespace().nth(column)?.parse().ok());
    value.unwrap_or_else(|| panic!("no {interface} in\n{table}"))
}

/// Subflows that have joined a connection of this host's.
fn joins(table: &str) -> u64 {
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("MPTcpExt: ")).map(str::split_whitespace);
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let found = names.zip(values).find(|(name, _)| *name == "MPJoinAckRx");
    found.and_then(|(_, value)| value.parse().ok()).expect("a number")
}

struct Look {
    time: Instant,
    bytes: u64,
    joins: u64,
}

/// What was seen.
pub(crate) struct History(Vec<Look>);

impl History {
    /// How long after a time the uplink carried data.
    pub(crate) fn used_after(&self, begin: Instant) -> Option<Duration> {
        self.when(begin, |before, later| later.bytes - before.bytes > USED)
    }

    /// The same, or a subflow joined: which of two paths has data when there is little, the kernel decides.
    pub(crate) fn open_after(&self, begin: Instant) -> Option<Duration> {
        self.when(begin, |before, later| later.bytes - before.bytes > USED || later.joins > before.joins)
    }

    fn when(&self, begin: Instant, is_it: impl Fn(&Look, &Look) -> bool) -> Option<Duration> {
        let (earlier, later) = self.0.split_at(self.0.partition_point(|look| look.time <= begin));
        let before = earlier.last()?;
        later.iter().find(|look| is_it(before, look)).map(|look| look.time - begin)
    }
}
