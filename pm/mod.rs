//! The path managers that come with the daemon, one file each; a feature `pm-NAME` compiles one in.

#[cfg(feature = "pm-addr_adv")]
mod addr_adv;
#[cfg(feature = "pm-announce")]
mod announce;
#[cfg(feature = "pm-fullmesh")]
mod fullmesh;
#[cfg(feature = "pm-handover")]
mod handover;
#[cfg(feature = "pm-ndiffports")]
mod ndiffports;
#[cfg(feature = "pm-sspi")]
mod sspi;
