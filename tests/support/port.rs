//! Ports that stay ours for a whole test, also while the member on them is down.
//!
//! Servers listen on TCP only, so a bound UDP socket of the same number is a claim that the
//! kernel arbitrates between all test processes. Numbers lie below the ephemeral range, so no
//! outgoing connection takes one either.

use std::net::{TcpListener, UdpSocket};

use anyhow::{Context as _, Result};

/// First number tried; below it sit well-known services.
const FIRST: u16 = 12_000;
/// Numbers tried: Linux hands out ephemeral ports from 32768 on.
const COUNT: u16 = 20_000;

/// A claimed TCP port on 127.0.0.1.
#[derive(Debug)]
pub(crate) struct Port {
    /// The number.
    pub(crate) number: u16,
    _claim: UdpSocket,
}

impl Port {
    /// Claims a free port.
    pub(crate) fn claim() -> Result<Self> {
        let spread = std::process::id().wrapping_mul(37);
        (0..COUNT)
            .map(|step| {
                let offset = (spread + u32::from(step)) % u32::from(COUNT);
                FIRST + u16::try_from(offset).expect("below COUNT")
            })
            .find_map(|number| {
                let claim = UdpSocket::bind(("127.0.0.1", number)).ok()?;
                TcpListener::bind(("127.0.0.1", number)).ok()?;
                Some(Self { number, _claim: claim })
            })
            .context("no free port on 127.0.0.1")
    }
}
