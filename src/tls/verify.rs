//! Who may connect to us, and to whom we connect.

use std::{path::Path, sync::Arc, time::SystemTime};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{Error, Facts, Settings, crl::Revoked};

/// The CRL of the settings, if there is one. An expired one still revokes.
fn revoked(file: &Path) -> Result<Revoked, Error> {
    if file.as_os_str().is_empty() {
        return Ok(Revoked::default());
    }
    let revoked = Revoked::read(file)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let expired =
        revoked.next_update.is_some_and(|next| u64::try_from(next).unwrap_or(0) < now.as_secs());
    if expired {
        tracing::warn!(file = %file.display(), "the CRL has expired; it stays in force, replace it");
    }
    Ok(revoked)
}

fn check_revoked(
    revoked: &Revoked,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), TlsError> {
    if std::iter::once(end_entity).chain(intermediates).any(|shown| revoked.contains(shown)) {
        return Err(CertificateError::Revoked.into());
    }
    Ok(())
}

/// Rules for certificates of clients: an authority, a purpose, a time, no revocation, a name.
#[derive(Debug)]
pub(super) struct ClientPolicy {
    signed: Arc<dyn ClientCertVerifier>,
    revoked: Revoked,
    allowed_cn: Vec<String>,
    allowed_hostname: Vec<String>,
}

impl ClientPolicy {
    pub(super) fn new(
        settings: &Settings,
        roots: RootCertStore,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let signed = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::File {
                path: settings.trusted_ca_file.clone(),
                why: error.to_string(),
            })?;
        Ok(Self {
            signed,
            revoked: revoked(&settings.crl_file)?,
            allowed_cn: settings.allowed_cn.clone(),
            allowed_hostname: settings.allowed_hostname.clone(),
        })
    }

    /// Judges a chain as of `now`.
    pub(super) fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let verified = self.signed.verify_client_cert(end_entity, intermediates, now)?;
        check_revoked(&self.revoked, end_entity, intermediates)?;
        if self.is_allowed(end_entity) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn is_allowed(&self, end_entity: &CertificateDer<'_>) -> bool {
        if self.allowed_cn.is_empty() && self.allowed_hostname.is_empty() {
            return true;
        }
        let Some(facts) = Facts::read(end_entity) else { return false };
        let has_name = facts.common_name.as_ref().is_some_and(|cn| self.allowed_cn.contains(cn));
        has_name || self.allowed_hostname.iter().any(|host| facts.has_host(host))
    }
}

impl ClientCertVerifier for ClientPolicy {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.signed.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.check(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.signed.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.signed.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

/// Rules for certificates of servers we dial.
#[derive(Debug)]
pub(super) struct ServerPolicy {
    /// `None`: any certificate, since nobody is to be verified.
    signed: Option<Arc<WebPkiServerVerifier>>,
    revoked: Revoked,
    provider: Arc<CryptoProvider>,
}

impl ServerPolicy {
    /// Accepts what `roots` signed for the host dialed.
    pub(super) fn signed_by(
        roots: RootCertStore,
        settings: &Settings,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let signed =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| Error::Settings(format!("no authority to trust: {error}")))?;
        Ok(Self { signed: Some(signed), revoked: revoked(&settings.crl_file)?, provider })
    }

    /// Accepts any certificate: encryption against listeners, not against impostors.
    pub(super) fn anyone(provider: Arc<CryptoProvider>) -> Self {
        Self { signed: None, revoked: Revoked::default(), provider }
    }
}

impl ServerCertVerifier for ServerPolicy {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(signed) = &self.signed else { return Ok(ServerCertVerified::assertion()) };
        let verified = signed.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        check_revoked(&self.revoked, end_entity, intermediates)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
