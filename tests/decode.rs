//! Decoders and encoders against datagrams of a real kernel: every value as the capture's comment says
//! it, every byte of a command as it was sent, and every truncation an error.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use mptcpd::command::{Advertisement, NewSubflow, PathCommand, PmCommand, SubflowEnds};
use mptcpd::event::{Connection, Endpoint, Limits, MptcpEvent, Subflow};
use mptcpd::types::{AddressId, EndpointFlags, Errno, IfIndex, Token};
use mptcpd::wire::{self, Encoder, Message, Messages, attributes, ctrl, mptcp};

const FAMILY: u16 = 28;

struct Line {
    file: String,
    bytes: Vec<u8>,
    comment: String,
}

fn captures() -> Vec<Line> {
    // cargo runs tests in the directory of the package; a copy of them may run elsewhere.
    let folder = Path::new("tests/captures");
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "hex") {
            continue;
        }
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            if let Some((hex, comment)) = line.split_once("  # ").filter(|_| !line.starts_with('#')) {
                let (file, comment) = (file.clone(), comment.to_owned());
                lines.push(Line { file, bytes: bytes(hex), comment });
            }
        }
    }
    assert!(lines.len() > 1000, "the captures are there");
    lines
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn messages(bytes: &[u8]) -> Vec<Message<'_>> {
    Messages::new(bytes).map(|message| message.unwrap()).collect()
}

/// The events of the captures: name, values by name, message.
fn events(lines: &[Line]) -> Vec<(&str, BTreeMap<&str, &str>, Message<'_>)> {
    let mut events = Vec::new();
    for line in lines.iter().filter(|line| line.comment.starts_with('+')) {
        let said = line.comment.split(" | ").next().unwrap();
        let mut words = said.split_whitespace().skip(2);
        let name = words.next().unwrap();
        let values = words.filter_map(|word| word.split_once('=')).collect();
        events.push((name, values, messages(&line.bytes)[0]));
    }
    events
}

fn address(values: &BTreeMap<&str, &str>, side: char) -> SocketAddr {
    let find = |name: &str| values.get(format!("{side}{name}").as_str()).copied();
    let ip: IpAddr = find("addr4").or_else(|| find("addr6")).unwrap().parse().unwrap();
    SocketAddr::new(ip, find("port").unwrap().parse().unwrap())
}

fn number(values: &BTreeMap<&str, &str>, name: &str) -> Option<u32> {
    let text = values.get(name)?;
    Some(match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).unwrap(),
        None => text.parse().unwrap(),
    })
}

fn id(values: &BTreeMap<&str, &str>, name: &str) -> AddressId {
    AddressId(number(values, name).unwrap().try_into().unwrap())
}

fn check_connection(found: &Connection, values: &BTreeMap<&str, &str>) {
    assert_eq!((found.local, found.remote), (address(values, 's'), address(values, 'd')));
    let flags = number(values, "flags").unwrap_or(0);
    let server = number(values, "server_side") == Some(1) || flags & 2 != 0;
    assert_eq!((found.server_side, found.deny_join_id0), (server, flags & 1 != 0));
}

fn check_subflow(found: &Subflow, values: &BTreeMap<&str, &str>) {
    assert_eq!((found.local, found.remote), (address(values, 's'), address(values, 'd')));
    assert_eq!((found.local_id, found.remote_id), (id(values, "loc_id"), id(values, "rem_id")));
    assert_eq!(Some(u32::from(found.backup)), number(values, "backup"));
    assert_eq!(found.if_index, number(values, "if_idx").map(IfIndex));
    assert_eq!(found.error, number(values, "error").map(|error| Errno(error.try_into().unwrap())));
    assert_eq!(found.reset.map(|reset| reset.reason), number(values, "reset_reason"));
}

#[test]
fn every_event_decodes_to_what_was_captured() {
    let lines = captures();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, values, message) in events(&lines) {
        assert_eq!((message.kind, message.port), (FAMILY, 0));
        let event = mptcp::decode_event(message.payload).unwrap().unwrap();
        assert_eq!(event.token().map(|token| token.0), number(&values, "token"), "{name}");
        match (name, &event) {
            ("CREATED", MptcpEvent::Created(found)) | ("ESTABLISHED", MptcpEvent::Established(found)) => {
                check_connection(found, &values);
            }
            ("CLOSED", MptcpEvent::Closed(_)) => {}
            ("ANNOUNCED", MptcpEvent::Announced(found)) => {
                assert_eq!((found.remote_id, found.remote), (id(&values, "rem_id"), address(&values, 'd')));
            }
            ("REMOVED", MptcpEvent::Removed(_, found)) => assert_eq!(*found, id(&values, "rem_id")),
            ("SUB_ESTABLISHED", MptcpEvent::SubflowEstablished(found))
            | ("SUB_CLOSED", MptcpEvent::SubflowClosed(found))
            | ("SUB_PRIORITY", MptcpEvent::SubflowPriority(found)) => check_subflow(found, &values),
            ("LISTENER_CREATED", MptcpEvent::ListenerCreated(found))
            | ("LISTENER_CLOSED", MptcpEvent::ListenerClosed(found)) => assert_eq!(*found, address(&values, 's')),
            _ => panic!("{name} decoded to {event:?}"),
        }
        *seen.entry(name).or_default() += 1;
    }
    assert_eq!(seen.len(), 10, "every kind of event is in the captures: {seen:?}");
}

#[test]
fn an_event_without_a_required_attribute_names_it() {
    let lines = captures();
    for (name, _, message) in events(&lines) {
        // A CLOSED has nothing but the generic netlink header and the token.
        let cut = &message.payload[..4];
        assert!(mptcp::decode_event(cut).is_err(), "{name}");
    }
}

#[test]
fn every_truncated_datagram_is_an_error_and_none_panics() {
    for line in captures() {
        let complete: Vec<usize> = {
            let mut ends = vec![0];
            for message in messages(&line.bytes) {
                ends.push(ends.last().unwrap() + (16 + message.payload.len()).next_multiple_of(4));
            }
            ends
        };
        for end in 0..line.bytes.len() {
            let result: Result<Vec<_>, _> = Messages::new(&line.bytes[..end]).collect();
            // A message may lack its padding, which belongs to no one.
            let whole = complete.iter().any(|at| *at == end || (end < *at && *at - end < 4 && result.is_ok()));
            assert_eq!(result.is_ok(), whole, "{} cut at {end}", line.file);
        }
    }
}

#[test]
fn a_message_whose_attributes_end_anywhere_is_decoded_or_refused_but_never_panics() {
    for line in captures() {
        for message in messages(&line.bytes) {
            for end in 0..message.payload.len() {
                let cut = Message { payload: &message.payload[..end], ..message };
                let _ = mptcp::decode_event(cut.payload);
                let _ = mptcp::decode_answer(cut.payload);
                let _ = ctrl::decode_family(cut.payload, mptcp::EVENTS_GROUP);
                let _ = wire::decode_end(&cut);
                let _ = wire::route::decode_event(&cut);
                let _ = wire::route::decode_route_answer(&cut, IfIndex(1));
            }
        }
    }
}

#[test]
fn an_unknown_event_and_an_unknown_attribute_are_skipped() {
    let lines = captures();
    let (_, _, message) = events(&lines)[0];
    let mut unknown = message.payload.to_vec();
    unknown[0] = 99;
    assert_eq!(mptcp::decode_event(&unknown), Ok(None));
    let mut longer = message.payload.to_vec();
    longer.extend([8, 0, 0xc8, 0, 1, 2, 3, 4]);
    assert_eq!(mptcp::decode_event(&longer), mptcp::decode_event(message.payload));
}

#[test]
fn the_family_and_its_group_of_events_are_found() {
    let lines = captures();
    let answer = lines.iter().find(|line| line.file.starts_with("00_") && line.comment.contains("RX")).unwrap();
    let family = ctrl::decode_family(messages(&answer.bytes)[0].payload, mptcp::EVENTS_GROUP).unwrap();
    assert_eq!((family.id, family.group), (FAMILY, Some(9)));
    let question = lines.iter().find(|line| line.file.starts_with("00_") && line.comment.contains("TX")).unwrap();
    let mut encoder = Encoder::default();
    ctrl::encode_get_family(&mut encoder, 3, mptcp::FAMILY);
    // The length of a string attribute is not padded, that of the message is.
    assert_eq!(encoder.bytes()[20..], question.bytes[20..]);
}

fn endpoint(address: &str, id: u8, flags: u32) -> Endpoint {
    let address = address.parse().unwrap();
    Endpoint { id: AddressId(id), address, port: 0, flags: EndpointFlags(flags), if_index: None }
}

#[test]
fn commands_are_encoded_as_they_were_sent() {
    let commands = [
        ("GET_LIMITS defaults", PmCommand::GetLimits),
        (
            "SET_LIMITS add_addr_accepted 3 subflows 4",
            PmCommand::SetLimits(Limits { subflows: 4, add_addr_accepted: 3 }),
        ),
        ("ADD_ADDR auto id signal", PmCommand::AddEndpoint(endpoint("10.0.2.1", 0, 1))),
        ("ADD_ADDR id already used", PmCommand::AddEndpoint(endpoint("10.0.3.1", 1, 2))),
        (
            "ADD_ADDR v6 ifidx 3",
            PmCommand::AddEndpoint(Endpoint { if_index: Some(IfIndex(3)), ..endpoint("dead:beef:2::1", 0, 1) }),
        ),
        (
            "ADD_ADDR signal with port creates listener",
            PmCommand::AddEndpoint(Endpoint { port: 7000, ..endpoint("10.0.2.1", 0, 1) }),
        ),
        ("GET_ADDR get id 7", PmCommand::GetEndpoint(AddressId(7))),
        ("GET_ADDR dump", PmCommand::DumpEndpoints),
        ("SET_FLAGS by addr", PmCommand::SetFlags(endpoint("10.0.3.1", 0, 4))),
        ("DEL_ADDR del 7", PmCommand::RemoveEndpoint(AddressId(7))),
        ("FLUSH_ADDRS flush", PmCommand::FlushEndpoints),
    ];
    let lines = captures();
    for (comment, command) in commands {
        let line = lines
            .iter()
            .find(|line| line.file.starts_with("42_") && line.comment == format!("server TX {comment}"))
            .unwrap_or_else(|| panic!("no capture of {comment}"));
        let sent = messages(&line.bytes)[0];
        let mut encoder = Encoder::default();
        mptcp::encode_command(&mut encoder, FAMILY, sent.sequence, &command);
        assert_eq!(encoder.bytes(), line.bytes, "{comment}");
    }
}

/// A request of a capture: the file's number, side and comment.
fn sent<'a>(lines: &'a [Line], file: &str, comment: &str) -> &'a [u8] {
    let is_it = |line: &&Line| line.file.starts_with(file) && line.comment == comment;
    &lines.iter().find(is_it).unwrap_or_else(|| panic!("no capture of {file} {comment}")).bytes
}

/// The attributes of a request by number, those in the nests ADDR and ADDR_REMOTE after them: what it
/// says, in whichever order.
fn said(request: &[u8]) -> Vec<(Vec<u16>, Vec<u8>)> {
    let mut said = Vec::new();
    for attribute in attributes(&request[20..]).map(|attribute| attribute.unwrap()) {
        match attribute.kind {
            kind @ (1 | 6) => said.extend(attributes(attribute.value).map(|attribute| {
                let attribute = attribute.unwrap();
                (vec![kind, attribute.kind], attribute.value.to_vec())
            })),
            kind => said.push((vec![kind], attribute.value.to_vec())),
        }
    }
    said.sort();
    said
}

fn encoded(command: &PathCommand, sequence: u32) -> Vec<u8> {
    let mut encoder = Encoder::default();
    // A byte that is left out shows.
    encoder.put(&[0xa5; 512]);
    encoder.clear();
    mptcp::encode_path_command(&mut encoder, FAMILY, sequence, command);
    encoder.bytes().to_vec()
}

fn advertisement(token: u32, address: &str, id: u8, port: u16) -> PathCommand {
    let address = address.parse().unwrap();
    PathCommand::Announce(Advertisement { token: Token(token), id: AddressId(id), address, port })
}

fn ends(token: u32, local: &str, remote: &str) -> SubflowEnds {
    SubflowEnds { token: Token(token), local: local.parse().unwrap(), remote: remote.parse().unwrap() }
}

fn new_subflow(token: u32, (local, local_id): (&str, u8), (remote, remote_id): (&str, u8)) -> NewSubflow {
    NewSubflow {
        token: Token(token),
        local: local.parse().unwrap(),
        local_id: AddressId(local_id),
        remote: remote.parse().unwrap(),
        remote_id: AddressId(remote_id),
        backup: false,
        if_index: None,
    }
}

/// File, comment, the command that says the same, and how it is shown.
fn path_commands() -> Vec<(&'static str, &'static str, PathCommand, &'static str)> {
    let on_c3 = |subflow: NewSubflow| NewSubflow { backup: true, if_index: Some(IfIndex(4)), ..subflow };
    let v4 = on_c3(new_subflow(0xc7c4_4de6, ("10.0.3.2", 6), ("10.0.3.1:5010", 33)));
    let v6 = on_c3(new_subflow(0x3dbe_57ec, ("dead:beef:3::2", 6), ("[dead:beef:3::1]:5010", 33)));
    let of_v4 = ends(0xc7c4_4de6, "10.0.2.2:38223", "10.0.2.1:5010");
    let of_v6 = ends(0x3dbe_57ec, "[dead:beef:2::2]:40483", "[dead:beef:2::1]:5010");
    let of_mapped = ends(0x8d24_74f1, "[::ffff:10.0.2.1]:5211", "[::ffff:10.0.2.2]:38413");
    vec![
        (
            "10_",
            "client TX ANNOUNCE client announces 10.0.2.2 id 10, no port",
            advertisement(0x9452_f8b6, "10.0.2.2", 10, 0),
            "announce address: token 0x9452f8b6 10.0.2.2 id 10",
        ),
        (
            "10_",
            "client TX ANNOUNCE same addr, id 11, port 50003",
            advertisement(0x9452_f8b6, "10.0.2.2", 11, 50003),
            "announce address: token 0x9452f8b6 10.0.2.2 id 11 port 50003",
        ),
        (
            "11_",
            "server TX ANNOUNCE server announces dead:beef:3::1 id 21 port 5020",
            advertisement(0x69c9_f439, "dead:beef:3::1", 21, 5020),
            "announce address: token 0x69c9f439 dead:beef:3::1 id 21 port 5020",
        ),
        (
            "10_",
            "client TX REMOVE id 11",
            PathCommand::Remove(Token(0x9452_f8b6), AddressId(11)),
            "withdraw address: token 0x9452f8b6 id 11",
        ),
        (
            "12_",
            "client TX SUBFLOW_CREATE id6 backup ifidx c3, remote id 33",
            PathCommand::CreateSubflow(v4),
            "create subflow: token 0xc7c44de6 10.0.3.2 id 6 - 10.0.3.1:5010 id 33 backup interface 4",
        ),
        (
            "13_",
            "client TX SUBFLOW_CREATE id6 backup ifidx c3, remote id 33",
            PathCommand::CreateSubflow(v6),
            "create subflow: token 0x3dbe57ec dead:beef:3::2 id 6 - [dead:beef:3::1]:5010 id 33 backup interface 4",
        ),
        (
            "12_",
            "client TX SUBFLOW_DESTROY destroy lid5",
            PathCommand::DestroySubflow(of_v4),
            "close subflow: token 0xc7c44de6 10.0.2.2:38223 - 10.0.2.1:5010",
        ),
        (
            "13_",
            "client TX SUBFLOW_DESTROY destroy lid5",
            PathCommand::DestroySubflow(of_v6),
            "close subflow: token 0x3dbe57ec [dead:beef:2::2]:40483 - [dead:beef:2::1]:5010",
        ),
        (
            "41_",
            "server TX SUBFLOW_DESTROY server destroys giving ::ffff: form",
            PathCommand::DestroySubflow(of_mapped),
            "close subflow: token 0x8d2474f1 [::ffff:10.0.2.1]:5211 - [::ffff:10.0.2.2]:38413",
        ),
        (
            "12_",
            "client TX SET_FLAGS backup on subflow",
            PathCommand::SetBackup(of_v4, true),
            "make subflow a backup: token 0xc7c44de6 10.0.2.2:38223 - 10.0.2.1:5010",
        ),
        (
            "13_",
            "client TX SET_FLAGS clear backup",
            PathCommand::SetBackup(of_v6, false),
            "make subflow no backup: token 0x3dbe57ec [dead:beef:2::2]:40483 - [dead:beef:2::1]:5010",
        ),
    ]
}

#[test]
fn commands_for_connections_say_what_was_sent_if_in_another_order() {
    let lines = captures();
    for (file, comment, command, _) in path_commands() {
        let sent = sent(&lines, file, comment);
        let encoded = encoded(&command, messages(sent)[0].sequence);
        assert_eq!(encoded[..20], sent[..20], "headers of {file} {comment}");
        assert_eq!(said(&encoded), said(sent), "{file} {comment}");
    }
}

#[test]
fn a_new_subflow_says_that_it_is_no_backup_and_which_id_the_peers_address_has() {
    let lines = captures();
    let mut wanted = said(sent(&lines, "12_", "client TX SUBFLOW_CREATE local 10.0.2.2 id5 -> 10.0.2.1:5010"));
    wanted.extend([(vec![1, 6], vec![0; 4]), (vec![6, 2], vec![9])]);
    wanted.sort();
    let subflow = new_subflow(0xc7c4_4de6, ("10.0.2.2", 5), ("10.0.2.1:5010", 9));
    assert_eq!(said(&encoded(&PathCommand::CreateSubflow(subflow), 1)), wanted);
}

#[test]
fn a_command_for_a_connection_leaves_no_byte_of_before_and_pads_with_zeros() {
    for (file, comment, command, _) in path_commands() {
        let mut fresh = Encoder::default();
        mptcp::encode_path_command(&mut fresh, FAMILY, 7, &command);
        assert_eq!(fresh.bytes(), encoded(&command, 7), "{file} {comment}");
        assert!(!fresh.bytes().contains(&0xa5), "{file} {comment}");
    }
}

#[test]
fn commands_for_connections_are_shown_with_all_that_they_ask_for() {
    for (_, comment, command, shown) in path_commands() {
        assert_eq!(command.to_string(), shown, "{comment}");
        assert_eq!(mptcpd::command::Request::Path(command).to_string(), shown, "{comment}");
    }
}

#[test]
fn answers_decode_with_the_kernels_words() {
    let mut errors = 0;
    for line in captures().iter().filter(|line| line.comment.contains(" RX reply err=")) {
        let name = line.comment.split("err=").nth(1).unwrap().split(' ').next().unwrap();
        let said = line.comment.split("extack=").nth(1).unwrap();
        let text = said.split(['\'', '"']).nth(1).filter(|_| !said.starts_with("None")).unwrap_or("");
        let text = if said.starts_with('"') { said.split('"').nth(1).unwrap() } else { text };
        let last = *messages(&line.bytes).last().unwrap();
        match wire::decode_end(&last).unwrap() {
            None => assert_eq!(name, "0", "{}", line.comment),
            Some(end) => match end.result {
                Ok(()) => assert_eq!(name, "0", "{}", line.comment),
                Err(refusal) => {
                    errors += 1;
                    assert_eq!((Errno(refusal.errno.0), refusal.text), (errno(name), text), "{}", line.comment);
                }
            },
        }
    }
    assert!(errors > 50, "{errors} errors are in the captures");
}

fn errno(name: &str) -> Errno {
    let known = [
        ("EPERM", 1),
        ("ESRCH", 3),
        ("EBUSY", 16),
        ("EEXIST", 17),
        ("ENODEV", 19),
        ("EINVAL", 22),
        ("ERANGE", 34),
        ("EOPNOTSUPP", 95),
        ("ENOTSUP", 95),
        ("EADDRNOTAVAIL", 99),
        ("ENETUNREACH", 101),
        ("ENOTCONN", 107),
    ];
    Errno(known.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}")).1)
}

#[test]
fn a_missing_attribute_is_named_by_the_kernel_and_by_us() {
    let missing = captures().iter().any(|line| {
        messages(&line.bytes).iter().any(|message| {
            matches!(wire::decode_end(message), Ok(Some(end)) if end.result.is_err_and(|refusal| refusal.missing == Some(1)))
        })
    });
    assert!(missing, "a refusal for a missing attribute is in the captures");
}

#[test]
fn endpoints_and_limits_decode() {
    let lines = captures();
    let answers = |comment: &str| -> Vec<mptcp::Answer> {
        lines
            .iter()
            .filter(|line| {
                line.file.starts_with("42_") && line.comment.contains(" RX ") && line.comment.ends_with(comment)
            })
            .flat_map(|line| messages(&line.bytes))
            .filter(|message| message.kind == FAMILY)
            .filter_map(|message| mptcp::decode_answer(message.payload).unwrap())
            .collect()
    };
    assert_eq!(answers("GET_LIMITS defaults"), [mptcp::Answer::Limits(Limits { subflows: 2, add_addr_accepted: 0 })]);
    let seven = endpoint("10.0.3.1", 7, 0xe);
    assert_eq!(answers("GET_ADDR get id 7"), [mptcp::Answer::Endpoint(seven)]);
    let all = answers("GET_ADDR dump");
    assert!(all.contains(&mptcp::Answer::Endpoint(seven)), "{all:?}");
    let v6 = Endpoint { if_index: Some(IfIndex(3)), ..endpoint("dead:beef:2::1", 0, 1) };
    let is_v6 = |answer: &mptcp::Answer| matches!(answer, mptcp::Answer::Endpoint(found) if Endpoint { id: AddressId(0), ..*found } == v6);
    assert!(all.iter().any(is_v6), "{all:?}");
}

#[test]
fn an_encoder_that_is_used_again_leaves_no_byte_of_before() {
    let mut used = Encoder::default();
    mptcp::encode_command(&mut used, 0xa5a5, 0xa5a5_a5a5, &PmCommand::AddEndpoint(endpoint("a5a5::a5a5", 0xa5, 0xa5)));
    used.clear();
    let mut fresh = Encoder::default();
    for encoder in [&mut used, &mut fresh] {
        mptcp::encode_command(encoder, FAMILY, 7, &PmCommand::RemoveEndpoint(AddressId(3)));
    }
    assert_eq!(used.bytes(), fresh.bytes());
}
