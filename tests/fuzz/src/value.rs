//! Arbitrary values of the daemon's types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use arbitrary::{Result, Unstructured};
use mptcpd::event::{Endpoint, Limits};
use mptcpd::types::{AddressId, EndpointFlags, Family, IfIndex, Token};

pub fn family(u: &mut Unstructured<'_>) -> Result<Family> {
    Ok(if u.arbitrary()? { Family::V6 } else { Family::V4 })
}

pub fn address_of(u: &mut Unstructured<'_>, family: Family) -> Result<IpAddr> {
    Ok(match family {
        Family::V4 => Ipv4Addr::from(u.arbitrary::<[u8; 4]>()?).into(),
        Family::V6 => Ipv6Addr::from(u.arbitrary::<[u8; 16]>()?).into(),
    })
}

pub fn address(u: &mut Unstructured<'_>) -> Result<IpAddr> {
    let family = family(u)?;
    address_of(u, family)
}

pub fn end(u: &mut Unstructured<'_>) -> Result<SocketAddr> {
    Ok(SocketAddr::new(address(u)?, u.arbitrary()?))
}

/// Two ends of one family.
pub fn ends(u: &mut Unstructured<'_>) -> Result<(SocketAddr, SocketAddr)> {
    let family = family(u)?;
    let mut end = || Ok(SocketAddr::new(address_of(u, family)?, u.arbitrary()?));
    Ok((end()?, end()?))
}

pub fn token(u: &mut Unstructured<'_>) -> Result<Token> {
    u.arbitrary().map(Token)
}

pub fn id(u: &mut Unstructured<'_>) -> Result<AddressId> {
    u.arbitrary().map(AddressId)
}

pub fn if_index(u: &mut Unstructured<'_>) -> Result<Option<IfIndex>> {
    Ok(Some(u.arbitrary()?).filter(|index| *index != 0).map(IfIndex))
}

pub fn endpoint(u: &mut Unstructured<'_>) -> Result<Endpoint> {
    Ok(Endpoint {
        id: id(u)?,
        address: address(u)?,
        port: u.arbitrary()?,
        flags: EndpointFlags(u.arbitrary()?),
        if_index: if_index(u)?,
    })
}

pub fn limits(u: &mut Unstructured<'_>) -> Result<Limits> {
    Ok(Limits { subflows: u.arbitrary()?, add_addr_accepted: u.arbitrary()? })
}

/// A name as the kernel writes it: without the byte that ends it.
pub fn name<'a>(u: &mut Unstructured<'a>) -> Result<&'a [u8]> {
    let length = u.int_in_range(0..=20)?;
    let bytes = u.bytes(length.min(u.len()))?;
    Ok(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
}
