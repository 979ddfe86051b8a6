//! Endpoints by DNS SRV records: `--discovery-srv`.

use super::{
    args::Global,
    exit::{BAD_ARGS, Exit, FAILED},
};
use crate::{cli::dns, discovery};

/// Puts the servers that the records of `--discovery-srv` name in the place of `--endpoints`;
/// nothing without that flag.
///
/// # Errors
/// The records cannot be read.
pub(super) async fn endpoints(global: &mut Global) -> Result<(), Exit> {
    if global.discovery_srv.is_empty() {
        return Ok(());
    }
    let resolver = dns::resolver().map_err(|why| Exit::new(BAD_ARGS, why))?;
    let (domain, name) = (&global.discovery_srv, &global.discovery_srv_name);
    let found = discovery::client_endpoints(domain, name, resolver).await;
    let found = found.map_err(|error| Exit::new(FAILED, error.to_string()))?;
    let (kept, ignored) = choose(found, global.secure_discovery);
    for endpoint in ignored {
        eprintln!("ignoring discovered insecure endpoint {endpoint:?}");
    }
    // As in etcdctl: with nothing found the flag's servers are asked.
    if !kept.is_empty() {
        global.endpoints = kept;
    }
    Ok(())
}

/// The endpoints to use, and those that are not secure enough.
fn choose(found: Vec<String>, secure_only: bool) -> (Vec<String>, Vec<String>) {
    found.into_iter().partition(|endpoint| !secure_only || endpoint.starts_with("https://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleartext_servers_are_left_out_on_demand() {
        let found = || vec!["https://a:1".to_owned(), "http://b:2".to_owned()];
        assert_eq!(choose(found(), false), (found(), vec![]));
        assert_eq!(
            choose(found(), true),
            (vec!["https://a:1".to_owned()], vec!["http://b:2".to_owned()])
        );
    }
}
