//! Listening sockets.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::Error;

/// Connections the kernel keeps for us to accept.
const BACKLOG: i32 = 1024;

/// Listeners of one address.
pub(super) struct Bound {
    /// The address with its port.
    pub address: SocketAddr,
    pub listeners: Vec<TcpListener>,
}

/// Opens `count` listeners that share `address`, with other processes too if `shared`.
pub(super) fn bind(address: SocketAddr, count: usize, shared: bool) -> Result<Bound, Error> {
    let failed = |source: io::Error| Error::Listen { address, hint: hint(&source), source };
    if count == 1 {
        let listener = listen(address, shared).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        return Ok(Bound { address, listeners: vec![listener] });
    }
    if address.port() != 0 && !shared {
        // Shared ports are shared with other processes of this user too: two members on one
        // port would each get half of the clients. A socket that does not share finds out.
        drop(listen(address, false).map_err(failed)?);
    }
    let first = listen(address, true).map_err(failed)?;
    let address = first.local_addr().map_err(failed)?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(listen(address, true).map_err(failed)?);
    }
    Ok(Bound { address, listeners })
}

/// Opens one listener that does not block; `shared` sets `SO_REUSEPORT`.
///
/// # Errors
/// The system's reason.
pub(crate) fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?; // restart at once, without waiting for old connections
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What to do about a failure.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has it: stop that, or choose another port with --listen-client-urls"
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has it: correct --listen-client-urls"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege: choose a higher one with --listen-client-urls"
        }
        _ => "check --listen-client-urls and the limit of open files",
    }
}
