//! Makes an endpoint of every usable address, with the flags that the configuration gives.

use mptcpd::plugin::{Endpoints, LocalAddress, Manages, PathManager, Plugin, View, WantedEndpoint};

struct AddrAdv;

impl PathManager for AddrAdv {
    fn endpoints(&self, view: &View<'_>) -> Option<Endpoints> {
        let mut wanted: Vec<WantedEndpoint> = Vec::new();
        for local in view.usable() {
            if has_room(local, &wanted) {
                wanted.push(WantedEndpoint { address: local.address, if_index: local.if_index, flags: local.flags });
            }
        }
        Some(Endpoints { wanted })
    }
}

/// Whether an interface may have one more endpoint: each is a subflow of every connection.
fn has_room(local: &LocalAddress<'_>, wanted: &[WantedEndpoint]) -> bool {
    local
        .max_subflows
        .is_none_or(|most| wanted.iter().filter(|other| other.if_index == local.if_index).count() < usize::from(most))
}

mptcpd::register_plugin!(Plugin {
    name: "addr_adv",
    manages: Manages::Endpoints,
    priority: 0,
    summary: "makes every usable address an endpoint of the kernel's path manager",
    build: |_| Ok(Box::new(AddrAdv)),
});

#[cfg(test)]
mod tests {
    use mptcpd::types::IfIndex;

    use super::*;

    #[test]
    fn an_interface_has_no_more_endpoints_than_it_may_have_subflows() {
        let local = |index, address: &str, max_subflows| {
            let local = LocalAddress::new(address.parse().unwrap(), IfIndex(index), "x");
            LocalAddress { max_subflows, ..local }
        };
        let addresses = [
            local(2, "10.0.0.1", Some(1)),
            local(2, "fd00::1", Some(1)),
            local(3, "10.0.1.1", Some(2)),
            local(3, "fd00:1::1", Some(2)),
            local(4, "10.0.2.1", None),
            local(4, "10.0.2.2", None),
        ];
        let wanted = AddrAdv.endpoints(&View::new(&addresses)).unwrap().wanted;
        assert_eq!(wanted.iter().map(|wanted| wanted.if_index.0).collect::<Vec<_>>(), [2, 3, 3, 4, 4]);
    }
}
