//! What `/metrics` and `/debug` ask of a member, and the URLs that serve nothing else.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    num::NonZeroUsize,
    rc::Rc,
    sync::Arc,
};

use futures::future::LocalBoxFuture;

use super::{StartError, client_of_this_thread, health::Health, security};
use crate::{
    api::{
        http::{Monitor, Observer},
        service::NoServices,
    },
    client::Client,
    config::{Config, MetricsLevel},
    frontend::{self, Frontend, FrontendHandle, Handlers, Listen, Serves},
    metrics::{HealthCounts, Source, calls::Calls},
};

/// Connections of all metrics URLs together: scrapers and probes, no clients.
const CONNECTIONS_MAX: usize = 1024;

/// The counters of a member that its threads share.
pub(super) fn source(client: Client, config: &Config) -> Source {
    Source {
        client,
        calls: Calls::new(config.metrics == MetricsLevel::Extensive),
        health: Arc::new(HealthCounts::default()),
        connections: Arc::default(),
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Observing {
    pub(super) source: Source,
    pub(super) has_profiles: bool,
}

impl Observing {
    /// Off this thread: reading `/proc` and formatting take a millisecond or more.
    async fn aside<T: Send + 'static>(
        self,
        read: impl FnOnce(&Source) -> T + Send + 'static,
    ) -> Option<T> {
        tokio::task::spawn_blocking(move || read(&self.source)).await.ok()
    }
}

impl Observer for Observing {
    fn metrics(&self) -> LocalBoxFuture<'static, String> {
        let of_task = self.clone();
        Box::pin(async move { of_task.aside(Source::render).await.unwrap_or_default() })
    }

    fn variables(&self) -> String {
        self.source.variables()
    }

    fn profile(&self, name: &str) -> LocalBoxFuture<'static, Option<String>> {
        let (of_task, name) = (self.clone(), name.to_owned());
        Box::pin(async move { of_task.aside(move |source| source.report(&name)).await.flatten() })
    }

    fn has_profiles(&self) -> bool {
        self.has_profiles
    }
}

/// Binds the metrics URLs, if there are any, before anything is started.
pub(super) fn bind(config: &Config) -> Result<Option<frontend::BoundFrontend>, StartError> {
    let mut listen = Vec::new();
    let tls = security::of_metrics(config)?;
    for url in config.listen_metrics_urls.iter() {
        let authority = url.authority();
        let resolve = |source: io::Error| StartError::Io {
            action: format!("resolve metrics URL {url}"),
            source,
        };
        let addresses: Vec<SocketAddr> = authority.to_socket_addrs().map_err(resolve)?.collect();
        let best = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
        let tls = tls.as_ref().filter(|_| url.scheme().is_secure()).cloned();
        let serves = Serves::Http;
        listen.extend(best.map(|address| Listen { address: *address, tls, serves }));
    }
    if listen.is_empty() {
        return Ok(None);
    }
    let frontend = Frontend {
        listen,
        workers: NonZeroUsize::new(1),
        connections_max: Some(CONNECTIONS_MAX),
        ..Frontend::default()
    };
    Ok(Some(frontend.bind()?))
}

/// Serves the metrics URLs on a thread of their own, also while there is no quorum.
pub(super) fn serve(
    bound: frontend::BoundFrontend,
    base: Client,
    observing: Observing,
) -> Result<FrontendHandle, StartError> {
    let factory = Arc::new(move || {
        let client = client_of_this_thread(&base);
        let health = Health::new(client, observing.source.health.clone());
        let observer = Rc::new(observing.clone());
        Handlers {
            services: Rc::new(NoServices("this port serves metrics and health only")),
            http: Rc::new(Monitor::new(Rc::new(health), observer)),
            // Not clients.
            connections: Arc::default(),
        }
    });
    Ok(bound.run(factory)?)
}
