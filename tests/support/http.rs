//! A small blocking HTTP/1.1 client: keep-alive calls and line streams, every wait bounded.
//!
//! Ours, so that the JSON tests see exactly the bytes a server sends.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// What JSON calls say about their body.
const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];

/// Longest answer head taken.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// One whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// Header names in lower case, and values.
    pub(crate) headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// First value of a header, by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}

/// A client of one server on 127.0.0.1. Keeps one connection and renews it when it breaks.
#[derive(Debug)]
pub(crate) struct Http {
    port: u16,
    limit: Duration,
    connection: Option<Connection>,
}

impl Http {
    /// A client that connects at its first call.
    pub(crate) fn new(port: u16) -> Self {
        Self { port, limit: Duration::from_secs(10), connection: None }
    }

    /// The same with another limit on each call.
    pub(crate) fn timeout(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// GET.
    pub(crate) fn get(&mut self, path: &str) -> Result<Answer> {
        self.call("GET", path, b"")
    }

    /// POST of JSON.
    pub(crate) fn post(&mut self, path: &str, body: &Value) -> Result<Answer> {
        self.call("POST", path, body.to_string().as_bytes())
    }

    /// Any request; `body` is sent with its length.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
        self.request(method, path, JSON, body)
    }

    /// A request with a form as its body, as `curl -d` sends it.
    pub(crate) fn form(&mut self, method: &str, path: &str, form: &str) -> Result<Answer> {
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        self.request(method, path, &headers, form.as_bytes())
    }

    /// Any request with these headers.
    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let reused = self.connection.is_some();
        match self.call_once(method, path, headers, body) {
            // The server may close an idle connection at any time. It then took nothing of this
            // request, so a second try on a new connection is safe.
            Err(error) if reused && error.downcast_ref::<Stale>().is_some() => {
                self.call_once(method, path, headers, body)
            }
            result => result,
        }
    }

    fn call_once(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let deadline = Instant::now() + self.limit;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.port)?,
        };
        connection.send(method, path, headers, body)?;
        let (status, headers) = connection.head(deadline)?;
        let body = connection.body(
            &headers,
            method == "HEAD" || [204, 304].contains(&status),
            deadline,
        )?;
        let answer = Answer { status, headers, body };
        if answer.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")) {
            self.connection = Some(connection);
        }
        Ok(answer)
    }
}

/// The peer closed a kept connection before it sent a byte of the answer.
#[derive(Debug, thiserror::Error)]
#[error("the server closed the connection")]
struct Stale;

/// A TCP connection and what was read of it but not used yet.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(port: u16) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str("Host: 127.0.0.1\r\n");
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        self.stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        self.stream.write_all(&request).map_err(|_| Stale)?;
        Ok(())
    }

    /// Reads more bytes; false at the end of the stream.
    fn fill(&mut self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no answer in time");
        self.stream.set_read_timeout(Some(left))?;
        let mut chunk = [0; 16 * 1024];
        let count = self.stream.read(&mut chunk).context("no answer")?;
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count > 0)
    }

    fn line(&mut self, deadline: Instant) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            ensure!(self.buffer.len() < HEAD_BYTES_MAX, "line too long");
            let fresh = self.buffer.is_empty();
            match self.fill(deadline) {
                Ok(true) => {}
                Ok(false) if fresh => return Err(Stale.into()),
                Ok(false) => bail!("the server closed the connection in the middle of a line"),
                Err(error) => return Err(reset_is_stale(error, fresh)),
            }
        }
    }

    fn head(&mut self, deadline: Instant) -> Result<(u16, Vec<(String, String)>)> {
        let first = self.line(deadline)?;
        let status = first.split(' ').nth(1).context("no status")?.parse()?;
        let mut headers = Vec::new();
        loop {
            let line = self.line(deadline)?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok((status, headers))
    }

    fn body(
        &mut self,
        headers: &[(String, String)],
        empty: bool,
        deadline: Instant,
    ) -> Result<Vec<u8>> {
        let header =
            |name: &str| headers.iter().find(|(have, _)| have == name).map(|(_, value)| value);
        if empty {
            return Ok(Vec::new());
        }
        if is_chunked(headers) {
            let mut body = Vec::new();
            while let Some(chunk) = self.chunk(deadline)? {
                body.extend(chunk);
            }
            return Ok(body);
        }
        match header("content-length") {
            Some(length) => self.exactly(length.parse()?, deadline),
            None => {
                while self.fill(deadline)? {}
                Ok(std::mem::take(&mut self.buffer))
            }
        }
    }

    fn exactly(&mut self, length: usize, deadline: Instant) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            ensure!(self.fill(deadline)?, "the body is cut short");
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// The next chunk, or `None` after the last one.
    fn chunk(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        let size_line = self.line(deadline)?;
        let size = usize::from_str_radix(size_line.split(';').next().unwrap_or(""), 16)
            .with_context(|| format!("chunk size {size_line:?}"))?;
        if size == 0 {
            while !self.line(deadline)?.is_empty() {}
            return Ok(None);
        }
        let chunk = self.exactly(size, deadline)?;
        self.exactly(2, deadline)?;
        Ok(Some(chunk))
    }
}

fn reset_is_stale(error: anyhow::Error, fresh: bool) -> anyhow::Error {
    let reset = error.downcast_ref::<std::io::Error>().is_some_and(|error| {
        matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
    });
    if fresh && reset { Stale.into() } else { error }
}

fn is_chunked(headers: &[(String, String)]) -> bool {
    headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked")
}

/// An answer that goes on: one JSON document per line.
#[derive(Debug)]
pub(crate) struct Lines {
    connection: Connection,
    /// HTTP status, once the head has come (a watch sends none before its first message).
    pub(crate) status: Option<u16>,
    chunked: bool,
    text: Vec<u8>,
    ended: bool,
}

impl Lines {
    /// POSTs `body` and leaves the answer to [`Lines::next`].
    pub(crate) fn post(port: u16, path: &str, body: &[u8]) -> Result<Self> {
        let mut connection = Connection::open(port)?;
        connection.send("POST", path, JSON, body)?;
        Ok(Self::of(connection))
    }

    /// GETs and leaves the answer to [`Lines::next`] or [`Lines::next_line`].
    pub(crate) fn get(port: u16, path: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let mut connection = Connection::open(port)?;
        connection.send("GET", path, headers, b"")?;
        Ok(Self::of(connection))
    }

    fn of(connection: Connection) -> Self {
        Self { connection, status: None, chunked: false, text: Vec::new(), ended: false }
    }

    /// Waits for the head of the answer; its status.
    pub(crate) fn opened(&mut self, deadline: Instant) -> Result<u16> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let (status, headers) = self.connection.head(deadline)?;
        self.status = Some(status);
        self.chunked = is_chunked(&headers);
        Ok(status)
    }

    /// The next line of text; `None` at the end of the stream.
    pub(crate) fn next_line(&mut self, deadline: Instant) -> Result<Option<String>> {
        self.opened(deadline)?;
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if self.ended {
                return Ok(None);
            }
            self.read_more(deadline)?;
        }
    }

    /// The next document; `None` at the end of the stream. Fails when none came until `deadline`.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<Option<Value>> {
        self.opened(deadline)?;
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.ended {
                let rest = std::mem::take(&mut self.text);
                let blank = rest.iter().all(u8::is_ascii_whitespace);
                return if blank { Ok(None) } else { Ok(Some(serde_json::from_slice(&rest)?)) };
            }
            self.read_more(deadline)?;
        }
    }

    fn read_more(&mut self, deadline: Instant) -> Result<()> {
        if self.chunked {
            match self.connection.chunk(deadline)? {
                Some(chunk) => self.text.extend(chunk),
                None => self.ended = true,
            }
        } else {
            self.ended = !self.connection.fill(deadline)?;
            self.text.append(&mut self.connection.buffer);
        }
        Ok(())
    }
}
