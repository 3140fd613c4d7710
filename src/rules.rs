//! From what users choose to a verdict for every address. Evaluated here and nowhere else, so that
//! every path manager sees the same.

use std::net::IpAddr;

use crate::event::Scope;
use crate::network::{Address, Link, Verdict};
use crate::plugin::Unusable;
use crate::types::{EndpointFlags, NotifyFlags};

/// What users choose about addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) notify: NotifyFlags,
    /// The flags of every endpoint.
    pub(crate) flags: EndpointFlags,
}

impl Rules {
    pub(crate) fn check_route(&self) -> bool {
        self.notify.contains(NotifyFlags::CHECK_ROUTE)
    }

    /// Whether the address may be used.
    pub(crate) fn verdict(&self, link: &Link, address: &Address) -> Verdict {
        self.verdict_without_route(link, address)?;
        match address.route.reachable {
            _ if !self.check_route() => Ok(()),
            Some(true) => Ok(()),
            Some(false) => Err(Unusable::NoRoute),
            None => Err(Unusable::RouteUnknown),
        }
    }

    /// The same but for the route: what is refused here needs no question to the kernel.
    pub(crate) fn verdict_without_route(&self, link: &Link, address: &Address) -> Verdict {
        if link.is_loopback() || address.told.address.is_loopback() {
            return Err(Unusable::Loopback);
        }
        if address.told.scope == Scope::HOST && self.notify.contains(NotifyFlags::SKIP_LOOPBACK) {
            return Err(Unusable::HostScope);
        }
        if is_link_local(address) && self.notify.contains(NotifyFlags::SKIP_LINK_LOCAL) {
            return Err(Unusable::LinkLocal);
        }
        if address.existing && !self.notify.contains(NotifyFlags::EXISTING) {
            return Err(Unusable::Existing);
        }
        link.state()?;
        address.state()?;
        if address.is_temporary() && link.has_stable(&address.told) {
            return Err(Unusable::Temporary);
        }
        Ok(())
    }
}

fn is_link_local(address: &Address) -> bool {
    address.told.scope == Scope::LINK
        || match address.told.address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        }
}
