//! The ways in which an uplink dies, and how each is undone.

use crate::common::net::client_v4;
use crate::lab::Lab;

/// What happens to an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    LinkDown,
    CarrierLost,
    AddressRemoved,
    Blackhole,
    ResetByClient,
    ResetByServer,
}

impl Failure {
    pub(crate) const ALL: [Self; 6] = [
        Self::LinkDown,
        Self::CarrierLost,
        Self::AddressRemoved,
        Self::Blackhole,
        Self::ResetByClient,
        Self::ResetByServer,
    ];

    /// Its name on the command line and in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LinkDown => "link-down",
            Self::CarrierLost => "carrier-lost",
            Self::AddressRemoved => "address-removed",
            Self::Blackhole => "blackhole",
            Self::ResetByClient => "client-reset",
            Self::ResetByServer => "server-reset",
        }
    }

    /// Whether only the subflow dies, and the uplink stays usable.
    pub(crate) fn is_reset(self) -> bool {
        matches!(self, Self::ResetByClient | Self::ResetByServer)
    }

    /// Has it happen to an uplink.
    pub(crate) fn inflict(self, lab: &Lab, link: u8) {
        let address = client_v4(link);
        let port = Lab::service().port();
        match self {
            Self::LinkDown => drop(lab.client.ip(&format!("link set c{link} down"))),
            Self::CarrierLost => drop(lab.router.ip(&format!("link set r{link} down"))),
            Self::AddressRemoved => drop(lab.client.ip(&format!("addr del {address}/24 dev c{link}"))),
            Self::Blackhole => drop(lab.router.run("nft", &swallow(link))),
            Self::ResetByClient => lab.client.kill(&format!("src {address} and dport = {port}")),
            Self::ResetByServer => lab.server.kill(&format!("dst {address} and sport = {port}")),
        }
    }

    /// Undoes it, with what a network manager does then.
    pub(crate) fn repair(self, lab: &Lab, link: u8) {
        let routes = Lab::routes(link);
        match self {
            Self::LinkDown => lab.client.ip_batch(&format!("link set c{link} up\n{routes}")),
            Self::CarrierLost => drop(lab.router.ip(&format!("link set r{link} up"))),
            Self::AddressRemoved => {
                lab.client.ip_batch(&format!("addr add {}/24 dev c{link}\n{routes}", client_v4(link)));
            }
            Self::Blackhole => drop(lab.router.run("nft", "delete table ip hole")),
            Self::ResetByClient | Self::ResetByServer => {}
        }
    }
}

/// What has nft(8) drop everything that comes from or goes to an uplink.
fn swallow(link: u8) -> String {
    format!(
        "add table ip hole ; \
         add chain ip hole passing {{ type filter hook forward priority 0 ; }} ; \
         add rule ip hole passing iifname r{link} drop ; \
         add rule ip hole passing oifname r{link} drop"
    )
}
