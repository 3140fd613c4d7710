//! Makes an endpoint of every usable address, with the flags that the configuration gives.

use mptcpd::plugin::{Endpoints, Manages, PathManager, Plugin, View, WantedEndpoint};

struct AddrAdv;

impl PathManager for AddrAdv {
    fn endpoints(&self, view: &View<'_>) -> Option<Endpoints> {
        let wanted = view
            .usable()
            .map(|local| WantedEndpoint { address: local.address, if_index: local.if_index, flags: local.flags })
            .collect();
        Some(Endpoints { wanted })
    }
}

mptcpd::register_plugin!(Plugin {
    name: "addr_adv",
    manages: Manages::Endpoints,
    priority: 0,
    summary: "makes every usable address an endpoint of the kernel's path manager",
    build: |_| Ok(Box::new(AddrAdv)),
});
