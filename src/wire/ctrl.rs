//! The generic netlink controller: from the name of a family to its number and groups
//! (include/uapi/linux/genetlink.h). Attributes of later kernels are skipped.

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_REQUEST};
use netlink_packet_generic::GenlHeader;
use netlink_packet_generic::constants::{
    CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME, CTRL_ATTR_MCAST_GROUPS, CTRL_ATTR_MCAST_GRP_ID,
    CTRL_ATTR_MCAST_GRP_NAME, CTRL_CMD_GETFAMILY, GENL_HDRLEN, GENL_ID_CTRL,
};

use super::{DecodeError, Encoder, attributes};

/// A family as the kernel numbered it at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// `nlmsg_type` of its messages.
    pub id: u16,
    /// Number of the multicast group that was asked for, if the family has it.
    pub group: Option<u32>,
}

/// Asks for a family:
///
/// ```text
/// nlmsghdr  type GENL_ID_CTRL
/// genlmsghdr  cmd CTRL_CMD_GETFAMILY, version 2
/// CTRL_ATTR_FAMILY_NAME  zero-terminated
/// ```
pub fn encode_get_family(encoder: &mut Encoder, sequence: u32, name: &str) {
    encoder.begin(GENL_ID_CTRL, NLM_F_REQUEST | NLM_F_ACK, sequence);
    put_header(encoder, CTRL_CMD_GETFAMILY, 2);
    encoder.attribute(CTRL_ATTR_FAMILY_NAME, &[name.as_bytes(), &[0]].concat());
    encoder.end();
}

/// Appends a generic netlink header.
pub(super) fn put_header(encoder: &mut Encoder, cmd: u8, version: u8) {
    let mut header = [0xa5; GENL_HDRLEN];
    GenlHeader { cmd, version }.emit(&mut header);
    encoder.put(&header);
}

/// Splits a generic netlink message into its command and its attributes.
pub(super) fn split_header(payload: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    let short = DecodeError::Short(GENL_HDRLEN, payload.len());
    let header = GenlHeader::parse(payload).map_err(|_| short)?;
    Ok((header.cmd, payload.get(GENL_HDRLEN..).unwrap_or_default()))
}

/// Decodes the answer, looking for one group by name.
pub fn decode_family(payload: &[u8], group: &str) -> Result<Family, DecodeError> {
    let (_, body) = split_header(payload)?;
    let mut id = None;
    let mut found = None;
    for attribute in attributes(body) {
        let attribute = attribute?;
        match attribute.kind {
            CTRL_ATTR_FAMILY_ID => id = Some(attribute.u16()?),
            CTRL_ATTR_MCAST_GROUPS => found = find_group(attribute.value, group)?,
            _ => {}
        }
    }
    Ok(Family { id: id.ok_or(DecodeError::Missing(CTRL_ATTR_FAMILY_ID))?, group: found })
}

fn find_group(groups: &[u8], wanted: &str) -> Result<Option<u32>, DecodeError> {
    for group in attributes(groups) {
        let (mut name, mut id) = ("", None);
        for attribute in attributes(group?.value) {
            let attribute = attribute?;
            match attribute.kind {
                CTRL_ATTR_MCAST_GRP_NAME => name = attribute.text(),
                CTRL_ATTR_MCAST_GRP_ID => id = Some(attribute.u32()?),
                _ => {}
            }
        }
        if name == wanted {
            return Ok(id);
        }
    }
    Ok(None)
}
