//! Memory of a server's process, from its `/metrics`.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::super::{args::Global, dial, exit::Exit};

/// The metric.
const METRIC: &str = "process_resident_memory_bytes";
/// Bytes of an answer that are read; a server's metrics have some hundred thousand.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Time for question and answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of memory that the process at `endpoint` has; none if it does not say.
///
/// # Errors
/// Certificates of the flags that cannot be used.
pub(super) async fn resident_bytes(
    global: &Global,
    secure: bool,
    endpoint: &str,
) -> Result<Option<f64>, Exit> {
    let (is_tls, authority) = match endpoint.split_once("://") {
        Some((scheme, authority)) => (scheme == "https", authority),
        None => (secure || dial::names_files(global), endpoint),
    };
    let connector = if is_tls { Some(dial::connector(global, &[b"http/1.1"])?) } else { None };
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let asked = async {
        let socket = TcpStream::connect(authority).await?;
        match connector {
            Some(connector) => ask(connector.connect(socket, host).await?, authority).await,
            None => ask(socket, authority).await,
        }
    };
    let answer = timeout(TIMEOUT, asked).await.ok().and_then(Result::ok);
    Ok(answer.and_then(|text| find(&text)))
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    authority: &str,
) -> std::io::Result<String> {
    let request =
        format!("GET /metrics HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut bytes = Vec::new();
    // A server that closes without a farewell has answered as well.
    let _ = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The metric's value in Prometheus' text form.
fn find(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.split(' ').next() == Some(METRIC))?;
    line.split(' ').nth(1)?.trim().parse().ok().filter(|bytes| *bytes > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metric_is_found_in_prometheus_text() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# TYPE process_resident_memory_bytes gauge\n\
                    process_resident_memory_bytes 2.3339008e+07\nother 1\n";
        assert_eq!(find(text), Some(23_339_008.0));
        assert_eq!(find("process_resident_memory_bytes 0\n"), None);
        assert_eq!(find("process_resident_memory_bytes_x 1\n"), None);
    }
}
