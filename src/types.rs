//! Newtypes for what the kernel's interface carries as bare integers, and the sets of flags that
//! users and the kernel name alike.

use std::fmt;

/// Token of a connection: the kernel's name for it on one host (RFC 8684, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u32);

/// Address id (RFC 8684, section 3.4.1); 0 is the address of the initial subflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressId(pub u8);

/// Index of a network interface; never 0 for an interface that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfIndex(pub u32);

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, with IPv4 in its mapped form.
    V6,
}

impl Family {
    pub(crate) const fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl fmt::Display for AddressId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of named bits: shared by [`EndpointFlags`] and [`NotifyFlags`].
macro_rules! flag_set {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $($(#[$flag_doc:meta])* $flag:ident = $bit:expr => $text:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub $repr);

        impl $name {
            $($(#[$flag_doc])* pub const $flag: Self = Self($bit);)+
            /// No flag at all.
            pub const NONE: Self = Self(0);
            /// Every flag that has a name, with that name.
            pub const NAMES: &'static [(&'static str, Self)] = &[$(($text, Self::$flag)),+];

            /// Whether every flag of `other` is set here.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// The flags of either.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// The flags that are in this set and not in `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// The flags of both.
            #[must_use]
            pub const fn intersection(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }

            /// Whether no flag is set.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// The flag of that name, if there is one.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, flag)| *flag)
            }
        }

        impl fmt::Display for $name {
            /// The names, separated by commas; bits without a name in hexadecimal; `none` if empty.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut rest = *self;
                let mut separator = "";
                for (name, flag) in Self::NAMES {
                    if self.contains(*flag) {
                        write!(f, "{separator}{name}")?;
                        separator = ",";
                        rest = rest.without(*flag);
                    }
                }
                if !rest.is_empty() {
                    write!(f, "{separator}{:#x}", rest.0)?;
                } else if separator.is_empty() {
                    f.write_str("none")?;
                }
                Ok(())
            }
        }
    };
}

flag_set! {
    /// Flags of an endpoint (`MPTCP_PM_ADDR_FLAG_*`, include/uapi/linux/mptcp.h).
    EndpointFlags, u32,
    /// Announce the address to the peer (ADD_ADDR).
    SIGNAL = 1 => "signal",
    /// Create subflows from the address.
    SUBFLOW = 2 => "subflow",
    /// Subflows of the address carry data only when no other can.
    BACKUP = 4 => "backup",
    /// Create subflows to every address that the peer announces.
    FULLMESH = 8 => "fullmesh",
    /// Made by the kernel itself for a subflow from an address that was no endpoint.
    IMPLICIT = 0x10 => "implicit",
    /// Use the address for subflows to announced addresses (6.18).
    LAMINAR = 0x20 => "laminar",
}

flag_set! {
    /// Which local addresses are used: the option `--notify-flags`.
    NotifyFlags, u8,
    /// Use addresses that are there when the daemon starts.
    EXISTING = 1 => "existing",
    /// Do not use link-local addresses.
    SKIP_LINK_LOCAL = 2 => "skip_link_local",
    /// Do not use host-scope addresses.
    SKIP_LOOPBACK = 4 => "skip_loopback",
    /// Use an address only while it has a route to the wider Internet.
    CHECK_ROUTE = 8 => "check_route",
}

impl EndpointFlags {
    /// The flags that a user may set with `--addr-flags`.
    pub const SETTABLE: Self = Self(0xf);
}

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogDestination {
    /// Standard error.
    Stderr,
    /// The local syslog socket.
    Syslog,
    /// The journal of systemd.
    Journal,
    /// Nowhere.
    Null,
}

/// What becomes of the daemon's endpoints and limits when it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnStop {
    /// They stay, the next start takes them over.
    Keep,
    /// They are taken out, which closes every subflow from those addresses.
    Remove,
}

/// What is done about the sysctl that selects who manages new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sysctl {
    /// It is set to what the path manager needs.
    Set,
    /// It stays as it is; what is wrong with it is said.
    Check,
}

/// The sysctl in `net.mptcp` that selects who manages connections made from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    /// By name, since Linux 6.15.
    PathManager,
    /// By number, since Linux 5.19.
    PmType,
}

/// Whether interfaces are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Yes,
    No,
    /// Not mixed with others, as befits a VPN.
    Apart,
}

/// An enumeration whose variants users name.
macro_rules! named {
    ($name:ident, $($variant:ident => $text:literal),+ $(,)?) => {
        impl $name {
            /// Every variant with its name.
            pub(crate) const NAMES: &'static [(&'static str, Self)] = &[$(($text, Self::$variant)),+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $text,)+
                })
            }
        }
    };
}

named!(LogDestination, Stderr => "stderr", Syslog => "syslog", Journal => "journal", Null => "null");
named!(Family, V4 => "ipv4", V6 => "ipv6");
named!(OnStop, Keep => "keep", Remove => "remove");
named!(Sysctl, Set => "set", Check => "check");
named!(Selector, PathManager => "path_manager", PmType => "pm_type");

/// An error number of the kernel, positive; never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// Operation not permitted.
    pub const PERM: Self = Self(1);
    /// No such file, family or socket.
    pub const NOENT: Self = Self(2);
    /// Device or resource busy; an address id that is taken.
    pub const BUSY: Self = Self(16);
    /// Exists already.
    pub const EXIST: Self = Self(17);
    /// Invalid argument; most of what mptcp_pm refuses.
    pub const INVAL: Self = Self(22);
    /// More endpoints than the kernel takes.
    pub const RANGE: Self = Self(34);
    /// Protocol not supported.
    pub const PROTONOSUPPORT: Self = Self(93);
    /// The kernel was built without it.
    pub const OPNOTSUPP: Self = Self(95);
    /// Somebody on this host ended it.
    pub const CONNABORTED: Self = Self(103);
    /// The peer, or something between, reset it.
    pub const CONNRESET: Self = Self(104);
    /// A socket's queue was full and messages were lost.
    pub const NOBUFS: Self = Self(105);
}

impl fmt::Display for Errno {
    /// The system's text in lower case, without the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        let mut chars = text.chars();
        if let Some(first) = chars.next() {
            write!(f, "{}{}", first.to_lowercase(), chars.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_shown_by_name_and_unknown_bits_in_hexadecimal() {
        assert_eq!(EndpointFlags::NONE.to_string(), "none");
        assert_eq!(EndpointFlags(3).to_string(), "signal,subflow");
        assert_eq!(EndpointFlags(0x104).to_string(), "backup,0x100");
        assert_eq!(NotifyFlags(0xf).to_string(), "existing,skip_link_local,skip_loopback,check_route");
    }

    #[test]
    fn every_name_finds_its_flag() {
        for (name, flag) in EndpointFlags::NAMES {
            assert_eq!(EndpointFlags::from_name(name), Some(*flag));
        }
        assert_eq!(EndpointFlags::from_name("Subflow"), None);
    }

    #[test]
    fn an_error_number_reads_as_lower_case_text() {
        assert_eq!(Errno::PERM.to_string(), "operation not permitted");
    }
}
