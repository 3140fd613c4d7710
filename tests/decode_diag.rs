//! sock_diag's encoder and decoder against datagrams of a real kernel.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]

use std::collections::BTreeSet;

use mptcpd::command::{Request, SocketRequest};
use mptcpd::diag::{ConnectionInfo, Cookie, Role, Socket, SocketId, SubflowFlags, SubflowInfo, TcpState};
use mptcpd::types::{AddressId, Errno, Family, IfIndex, Token};
use mptcpd::wire::{self, DecodeError, Encoder, Message, Messages, diag};

const CLIENT: &str = include_str!("captures/51_diag_client.hex");
const SERVER: &str = include_str!("captures/51_diag_server.hex");
const ONE: &str = include_str!("captures/51_diag_one_token.hex");
const NONE: &str = include_str!("captures/51_diag_bad_token.hex");

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Requests about sockets in a capture, each with its answers.
fn exchanges(capture: &str) -> Vec<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut exchanges: Vec<(Vec<u8>, Vec<Vec<u8>>)> = Vec::new();
    for (hex, said) in capture.lines().filter_map(|line| line.split_once("  # ")) {
        match (said.starts_with("TX sock_diag"), said.starts_with("RX sock_diag")) {
            (true, _) => exchanges.push((bytes(hex), Vec::new())),
            (_, true) => exchanges.last_mut().unwrap().1.push(bytes(hex)),
            _ => {}
        }
    }
    exchanges
}

fn encoded(request: &SocketRequest, sequence: u32) -> Vec<u8> {
    let mut encoder = Encoder::default();
    // A byte that is left out shows.
    encoder.put(&[0xa5; 128]);
    encoder.clear();
    diag::encode_request(&mut encoder, sequence, request);
    encoder.bytes().to_vec()
}

const REQUESTS: [SocketRequest; 7] = [
    SocketRequest::Listeners(Family::V4),
    SocketRequest::Listeners(Family::V6),
    SocketRequest::Connections(Family::V4),
    SocketRequest::Connections(Family::V6),
    SocketRequest::Subflows(Family::V4),
    SocketRequest::Subflows(Family::V6),
    SocketRequest::Connection(Token(0x9fde_856b)),
];

/// What was asked by that request of a capture.
fn asked(request: &[u8]) -> SocketRequest {
    let is_it = |known: &&SocketRequest| encoded(known, 1) == request;
    *REQUESTS.iter().find(is_it).unwrap_or_else(|| panic!("not one of ours: {request:02x?}"))
}

/// The sockets in the answers to a request of a capture.
fn sockets(capture: &str, wanted: &SocketRequest) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for (_, answers) in exchanges(capture).iter().filter(|(request, _)| *request == encoded(wanted, 1)) {
        for message in answers.iter().flat_map(|answer| Messages::new(answer)) {
            sockets.extend(diag::decode_socket(&message.unwrap(), wanted).unwrap());
        }
    }
    sockets
}

fn id(local: &str, remote: &str, cookie: u64) -> SocketId {
    let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
    SocketId { local, remote, if_index: None, cookie: Cookie(cookie) }
}

#[test]
fn requests_are_encoded_as_they_were_sent() {
    let mut seen = BTreeSet::new();
    for capture in [CLIENT, SERVER, ONE] {
        for (request, _) in exchanges(capture) {
            seen.insert(asked(&request).to_string());
        }
    }
    assert_eq!(seen, REQUESTS.iter().map(SocketRequest::to_string).collect(), "each was sent");
    let (request, _) = &exchanges(NONE)[2];
    assert_eq!(encoded(&SocketRequest::Connection(Token(0x1234_5678)), 1), *request);
}

#[test]
fn the_name_of_one_socket_is_encoded_as_the_kernel_gave_it() {
    let wanted = REQUESTS[4];
    let mut count = 0;
    for (_, answers) in exchanges(CLIENT).iter().chain(&exchanges(SERVER)) {
        for message in answers.iter().flat_map(|answer| Messages::new(answer)).map(|message| message.unwrap()) {
            let mut payload = message.payload.to_vec();
            if let Some(cookie) = payload.get_mut(44..52) {
                cookie.copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
            }
            let message = Message { payload: &payload, ..message };
            let Some(socket) = diag::decode_socket(&message, &wanted).unwrap() else { continue };
            let family = message.payload[0];
            for (request, kind, flags) in
                [(SocketRequest::Subflow(socket.id), 20, 1), (SocketRequest::Destroy(socket.id), 21, 5)]
            {
                let encoded = encoded(&request, 7);
                assert_eq!(encoded.len(), 72);
                assert_eq!(encoded[..16], [72, 0, 0, 0, kind, 0, flags, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
                assert_eq!(encoded[16..24], [family, 6, 2, 0, 0xff, 0xf, 0, 0]);
                assert_eq!(encoded[24..], message.payload[4..52], "{request}");
                count += 1;
            }
        }
    }
    assert!(count > 20, "{count} sockets are in the captures");
}

/// The connection of the captures; the sequence numbers are those of ss.
const CONNECTION: ConnectionInfo = ConnectionInfo {
    token: Token(0x9fde_856b),
    fallback: false,
    write_sequence: 17_611_291_469_118_021_403,
    unacknowledged: 17_611_291_469_118_021_403,
    receive_next: 13_732_892_618_534_924_052,
};

#[test]
fn connections_and_their_subflows_decode_to_what_was_captured() {
    let connections = sockets(CLIENT, &REQUESTS[2]);
    assert_eq!(
        connections[0],
        Socket {
            id: id("10.0.1.2:59274", "10.0.1.1:5300", 0x32),
            state: TcpState::ESTABLISHED,
            inode: 282_176,
            v6_only: false,
            role: Role::Connection(CONNECTION),
            transfer: None,
        }
    );
    assert_eq!(sockets(ONE, &REQUESTS[6]), connections[..1]);
    let of_it = |socket: &Socket| matches!(socket.role, Role::Subflow(info) if info.token == Token(0x9fde_856b));
    let mut subflows = sockets(CLIENT, &REQUESTS[4]);
    subflows.retain(of_it);
    subflows.sort_by_key(|socket| socket.id.local);
    let subflow = |ids: (u8, u8), remote_token, flags| {
        let (local_id, remote_id) = (AddressId(ids.0), AddressId(ids.1));
        let (token, flags) = (Token(0x9fde_856b), SubflowFlags(flags));
        Role::Subflow(SubflowInfo { token, remote_token: Token(remote_token), local_id, remote_id, flags })
    };
    // ss shows them as "Mmec" and "Jjbec".
    let roles: Vec<_> = subflows.iter().map(|socket| socket.role).collect();
    assert_eq!(roles, [subflow((0, 0), 0, 0xc3), subflow((2, 1), 0x75d9_fdd3, 0xec)]);
    let join = SubflowFlags::JOIN_REMOTE.0 | SubflowFlags::JOIN_LOCAL.0 | SubflowFlags::BACKUP_LOCAL.0;
    assert!(SubflowFlags(0xec).contains(SubflowFlags(join | SubflowFlags::FULLY_ESTABLISHED.0)));
    let ids: Vec<_> = subflows.iter().map(|socket| socket.id).collect();
    let bound = SocketId { if_index: Some(IfIndex(3)), ..id("10.0.2.2:37957", "10.0.2.1:5300", 0x2f) };
    assert_eq!(ids, [id("10.0.1.2:59274", "10.0.1.1:5300", 0x2e), bound]);
    assert!(subflows.iter().all(|socket| socket.inode == connections[0].inode));
}

#[test]
fn listeners_decode_with_the_families_that_they_take() {
    let listeners = [REQUESTS[0], REQUESTS[1]].map(|request| sockets(SERVER, &request)).concat();
    assert!(listeners.iter().all(|socket| socket.state == TcpState::LISTEN && socket.id.remote.port() == 0));
    let said: Vec<_> = listeners.iter().map(|socket| (socket.id.local.to_string(), socket.v6_only)).collect();
    let said: BTreeSet<_> = said.iter().map(|(local, v6_only)| (local.as_str(), *v6_only)).collect();
    assert_eq!(
        said,
        BTreeSet::from([("0.0.0.0:5300", false), ("0.0.0.0:5303", false), ("[::]:5301", false), ("[::]:5302", false)])
    );
}

#[test]
fn a_token_that_no_connection_has_is_refused() {
    let (_, answers) = &exchanges(NONE)[2];
    let message = Messages::new(&answers[0]).next().unwrap().unwrap();
    assert_eq!(wire::decode_end(&message).unwrap().unwrap().result.unwrap_err().errno, Errno::NOENT);
    assert_eq!(diag::decode_socket(&message, &REQUESTS[6]), Ok(None));
}

#[test]
fn a_socket_that_is_cut_off_anywhere_is_decoded_in_part_or_refused_but_never_panics() {
    for capture in [CLIENT, SERVER, ONE, NONE] {
        for (request, answers) in exchanges(capture) {
            let Some(request) = REQUESTS.iter().find(|known| encoded(known, 1) == request) else { continue };
            for message in answers.iter().flat_map(|answer| Messages::new(answer)).map(|message| message.unwrap()) {
                for end in 0..message.payload.len() {
                    let cut = Message { payload: &message.payload[..end], ..message };
                    let socket = diag::decode_socket(&cut, request);
                    match socket {
                        Err(DecodeError::Short(72, got)) => assert!(end < 72 && got == end),
                        Err(DecodeError::Attributes | DecodeError::AttributeShort(..)) => assert!(end > 72),
                        Ok(Some(_)) => assert!(end >= 72),
                        Ok(None) => assert_ne!(message.kind, 20),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    }
}

#[test]
fn a_nest_that_is_cut_off_is_refused_and_one_of_another_kind_is_passed_over() {
    let whole = sockets(CLIENT, &REQUESTS[4])[0];
    let (_, answers) = &exchanges(CLIENT)[0];
    let message = Messages::new(&answers[0]).next().unwrap().unwrap();
    let decode = |payload: &[u8]| diag::decode_socket(&Message { payload, ..message }, &REQUESTS[4]);
    let at = message.payload.windows(6).position(|bytes| bytes == b"mptcp\0").unwrap();
    let mut other = message.payload.to_vec();
    other[at] = b'x';
    assert_eq!(decode(&other).unwrap().unwrap(), Socket { role: Role::Other, ..whole });
    let mut unknown = message.payload.to_vec();
    unknown.extend([8, 0, 0xc8, 0, 1, 2, 3, 4]);
    assert_eq!(decode(&unknown).unwrap().unwrap(), whole);
    // The nest begins four bytes before the attribute that has the name.
    for length in 5..u16::from_ne_bytes([message.payload[at - 8], message.payload[at - 7]]) {
        let mut cut = message.payload[..at - 8 + usize::from(length)].to_vec();
        cut[at - 8..at - 6].copy_from_slice(&length.to_ne_bytes());
        let _ = decode(&cut);
    }
    let mut family = message.payload.to_vec();
    family[0] = 1;
    assert_eq!(decode(&family), Ok(None), "of a family without addresses");
}

#[test]
fn requests_are_shown_with_all_that_they_ask_for() {
    let id = SocketId { if_index: Some(IfIndex(3)), ..id("10.0.2.2:37957", "10.0.2.1:5300", 0x2f) };
    for (request, shown) in [
        (SocketRequest::Listeners(Family::V6), "list ipv6 listeners"),
        (SocketRequest::Connections(Family::V4), "list ipv4 connections"),
        (SocketRequest::Subflows(Family::V4), "list ipv4 subflows"),
        (SocketRequest::Connection(Token(0x9fde_856b)), "look for connection: token 0x9fde856b"),
        (SocketRequest::Subflow(id), "look for subflow: 10.0.2.2:37957 - 10.0.2.1:5300 interface 3"),
        (SocketRequest::Destroy(id), "reset subflow: 10.0.2.2:37957 - 10.0.2.1:5300 interface 3"),
    ] {
        assert_eq!(Request::Sockets(request).to_string(), shown);
    }
}

#[test]
fn every_subflow_belongs_to_a_connection_and_a_mapped_one_has_the_ends_of_its_connection() {
    for capture in [CLIENT, SERVER] {
        let connections = [REQUESTS[2], REQUESTS[3]].map(|request| sockets(capture, &request)).concat();
        let subflows = [REQUESTS[4], REQUESTS[5]].map(|request| sockets(capture, &request)).concat();
        for subflow in &subflows {
            let Role::Subflow(info) = subflow.role else { continue };
            let is_its = |connection: &&Socket| matches!(connection.role, Role::Connection(c) if c.token == info.token);
            let connection = connections.iter().find(is_its).unwrap_or_else(|| panic!("{subflow:?}"));
            if info.flags.contains(SubflowFlags::CAPABLE_REMOTE) {
                assert_eq!((subflow.id.local, subflow.id.remote), (connection.id.local, connection.id.remote));
            }
        }
    }
}
