//! Connections to servers: dialing, failover, the auth token, deadlines.
//!
//! Endpoints are tried in turn. A request that only reads moves on to the next endpoint when one
//! is unavailable; a write is sent once, since nobody knows whether a lost one took effect.

use std::{cell::RefCell, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::{
    args::Global,
    dial::{self, Dialer},
    exit::{BAD_CONNECTION, Exit, status_text},
    password,
};
use crate::api::proto::etcdserverpb::{AuthenticateRequest, auth_client::AuthClient};

/// Pause before the endpoints are tried again after all of them failed.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// Shortest time between pings, as in gRPC's Go library: servers drop clients that ping more.
const KEEPALIVE_TIME_MIN: Duration = Duration::from_secs(10);

/// A connection that sends the auth token with every request.
pub(super) type Connection = InterceptedService<Channel, Token>;

/// Adds the auth token, if there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

/// Whether a request may be sent again when its answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It changes nothing.
    Reads,
    /// It may have changed something already.
    Writes,
}

/// One endpoint.
struct Server {
    /// As the user wrote it.
    name: String,
    endpoint: Endpoint,
    /// Speaks TLS.
    dialer: Option<Dialer>,
}

impl Server {
    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        match &self.dialer {
            Some(dialer) => self.endpoint.connect_with_connector(dialer.clone()).await,
            None => self.endpoint.connect().await,
        }
    }
}

/// A client of several equal endpoints.
pub(super) struct Client {
    servers: Vec<Server>,
    secure: bool,
    dial_timeout: Duration,
    command_timeout: Duration,
    /// Name and password.
    user: Option<(String, String)>,
    state: RefCell<State>,
}

/// What is remembered between requests.
#[derive(Default)]
struct State {
    /// Endpoint to use or try next.
    at: usize,
    connection: Option<Connection>,
    /// A server refused the user of the flags.
    refused: bool,
    /// Why the last endpoint did not answer, for the user.
    last_error: Option<String>,
}

impl Client {
    /// A client of all `global.endpoints`. Connects only when it is used.
    pub(super) fn new(global: &Global, secure: bool) -> Result<Self, Exit> {
        let bare_scheme = if secure || dial::names_files(global) { "https" } else { "http" };
        let is_secure = |name: &str| match name.split_once("://") {
            Some((scheme, _)) => scheme == "https",
            None => bare_scheme == "https",
        };
        let dialer = if global.endpoints.iter().any(|name| is_secure(name)) {
            Some(Dialer::new(global)?)
        } else {
            None
        };
        let endpoints = global.endpoints.iter().map(|name| {
            let uri =
                if name.contains("://") { name.clone() } else { format!("{bare_scheme}://{name}") };
            let endpoint = Endpoint::from_shared(uri)
                .map_err(|error| Exit::args(format!("bad endpoint {name:?}: {error}")))?
                .connect_timeout(global.dial_timeout)
                .http2_keep_alive_interval(global.keepalive_time.max(KEEPALIVE_TIME_MIN))
                .keep_alive_timeout(global.keepalive_timeout);
            let dialer = dialer.clone().filter(|_| is_secure(name));
            Ok::<_, Exit>(Server { name: name.clone(), endpoint, dialer })
        });
        Ok(Self {
            servers: endpoints.collect::<Result<_, _>>()?,
            dial_timeout: global.dial_timeout,
            command_timeout: global.command_timeout,
            user: user(global)?,
            secure,
            state: RefCell::default(),
        })
    }

    /// A client of one endpoint alone, with the flags of a client that exists already.
    pub(super) fn single(&self, global: &Global, endpoint: &str) -> Result<Self, Exit> {
        let global = Global { endpoints: vec![endpoint.to_owned()], ..global.clone() };
        Self::new(&global, self.secure)
    }

    /// Sends a request, at the latest within the command timeout.
    ///
    /// # Errors
    /// The server's refusal, or that the time is up.
    pub(super) async fn call<T>(
        &self,
        effect: Effect,
        request: impl AsyncFn(Connection) -> Result<Response<T>, Status>,
    ) -> Result<T, Exit> {
        self.call_status(effect, request).await.map_err(|status| {
            if let (Code::DeadlineExceeded, Some(why)) =
                (status.code(), self.state.borrow_mut().last_error.take())
            {
                eprintln!("warning: {why}");
            }
            self.exit(status)
        })
    }

    /// [`Client::call`] with the server's status.
    pub(super) async fn call_status<T>(
        &self,
        effect: Effect,
        request: impl AsyncFn(Connection) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        let attempts = async {
            loop {
                let connection = self.connection().await?;
                match request(connection).await {
                    Ok(response) => return Ok(response.into_inner()),
                    Err(status) if is_lost(&status) && effect == Effect::Reads => {
                        self.give_up(status_text(&status));
                        sleep(ROUND_PAUSE).await;
                    }
                    Err(status) => return Err(status),
                }
            }
        };
        timeout(self.command_timeout, attempts)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("context deadline exceeded")))
    }

    /// A connection within the dial timeout, for streams that live longer than a command.
    ///
    /// # Errors
    /// No endpoint could be reached, or the user was refused.
    pub(super) async fn dial(&self) -> Result<Connection, Exit> {
        match timeout_at(Instant::now() + self.dial_timeout, self.connection()).await {
            Ok(connection) => connection.map_err(|status| self.exit(status)),
            Err(_) => {
                if let Some(why) = self.state.borrow_mut().last_error.take() {
                    eprintln!("warning: {why}");
                }
                Err(Exit::deadline())
            }
        }
    }

    /// Drops the connection in use, so that the next one goes to the next endpoint.
    pub(super) fn give_up(&self, why: String) {
        let mut state = self.state.borrow_mut();
        state.connection = None;
        let name = &self.servers[state.at % self.servers.len()].name;
        state.last_error = Some(format!("{name}: {why}"));
        state.at += 1;
    }

    /// The connection in use, or a new one to the first endpoint that answers. Tries for ever;
    /// the caller has the deadline.
    async fn connection(&self) -> Result<Connection, Status> {
        if let Some(connection) = self.state.borrow().connection.clone() {
            return Ok(connection);
        }
        let mut failures = 0;
        loop {
            let at = self.state.borrow().at % self.servers.len();
            match self.servers[at].connect().await {
                Ok(channel) => {
                    let token = self.authenticate(&channel).await?;
                    let connection = InterceptedService::new(channel, token);
                    self.state.borrow_mut().connection = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) => {
                    self.give_up(format!("{:#}", anyhow::Error::from(error)));
                    failures += 1;
                    if failures % self.servers.len() == 0 {
                        sleep(ROUND_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Asks for a token. A server without authentication needs none.
    async fn authenticate(&self, channel: &Channel) -> Result<Token, Status> {
        let Some((name, password)) = &self.user else { return Ok(Token::default()) };
        let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
        match AuthClient::new(channel.clone()).authenticate(request).await {
            Ok(answer) => {
                let token = answer.into_inner().token.parse().map_err(|_| {
                    Status::unauthenticated("the server's token cannot be sent as metadata")
                })?;
                Ok(Token(Some(token)))
            }
            Err(status) if status.message().contains("authentication is not enabled") => {
                Ok(Token::default())
            }
            Err(status) => {
                self.state.borrow_mut().refused = true;
                Err(status)
            }
        }
    }

    /// A refused user is as bad as no connection, as in etcdctl.
    fn exit(&self, status: Status) -> Exit {
        let exit = Exit::from(status);
        if self.state.borrow().refused { Exit { code: BAD_CONNECTION, ..exit } } else { exit }
    }
}

/// The server is unavailable or the connection broke, so another server may do better.
pub(super) fn is_lost(status: &Status) -> bool {
    // Only a status made on this side has a cause; the wire carries none.
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// Name and password of the flags.
fn user(global: &Global) -> Result<Option<(String, String)>, Exit> {
    // A password without a user means nothing to etcdctl.
    if global.user.is_empty() {
        return Ok(None);
    }
    if !global.password.is_empty() {
        return Ok(Some((global.user.clone(), global.password.clone())));
    }
    match global.user.split_once(':') {
        Some((name, password)) => Ok(Some((name.to_owned(), password.to_owned()))),
        None => {
            password::prompt("Password: ").map(|password| Some((global.user.clone(), password)))
        }
    }
}
