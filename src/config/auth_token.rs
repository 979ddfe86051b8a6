//! `--auth-token`: kind of tokens and, for JWT, its options.

use std::{str::FromStr, time::Duration};

use super::duration;

/// Lifetime of a JWT when none is given, as in etcd.
const DEFAULT_JWT_TTL: Duration = Duration::from_secs(300);

/// Kind of auth tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthToken {
    /// Random text, known to all members, forgotten after a time.
    Simple,
    /// Signed claims.
    Jwt(JwtOptions),
}

/// Keys and signature of JSON web tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    /// File of the key that verifies; empty if it follows from the private key.
    pub pub_key: String,
    /// File of the key that signs.
    pub priv_key: String,
    /// Algorithm by JWA name, such as `RS256`.
    pub sign_method: String,
    /// Lifetime.
    pub ttl: Duration,
}

/// An `--auth-token` nobody understands. Text is etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("auth: invalid auth options")]
pub struct AuthTokenError;

impl FromStr for AuthToken {
    type Err = AuthTokenError;

    fn from_str(text: &str) -> Result<Self, AuthTokenError> {
        let (kind, options) = text.split_once(',').unwrap_or((text, ""));
        match kind {
            // etcd takes a simple token with options and ignores them.
            "" | "simple" => Ok(Self::Simple),
            "jwt" => parse_jwt(options).map(Self::Jwt),
            _ => Err(AuthTokenError),
        }
    }
}

fn parse_jwt(options: &str) -> Result<JwtOptions, AuthTokenError> {
    let mut jwt = JwtOptions {
        pub_key: String::new(),
        priv_key: String::new(),
        sign_method: String::new(),
        ttl: DEFAULT_JWT_TTL,
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').ok_or(AuthTokenError)?;
        match name {
            "pub-key" => value.clone_into(&mut jwt.pub_key),
            "priv-key" => value.clone_into(&mut jwt.priv_key),
            "sign-method" => value.clone_into(&mut jwt.sign_method),
            "ttl" => jwt.ttl = duration::parse(value).map_err(|_| AuthTokenError)?,
            _ => return Err(AuthTokenError),
        }
    }
    if jwt.sign_method.is_empty() || (jwt.pub_key.is_empty() && jwt.priv_key.is_empty()) {
        return Err(AuthTokenError);
    }
    Ok(jwt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_kinds_and_options() {
        let jwt = "jwt,pub-key=a.pub,priv-key=a.pem,sign-method=RS256,ttl=10m";
        let AuthToken::Jwt(options) = jwt.parse().unwrap() else { panic!("not a JWT") };
        assert_eq!(options.priv_key, "a.pem");
        assert_eq!(options.ttl, Duration::from_secs(600));
        assert_eq!("simple".parse(), Ok(AuthToken::Simple));
        for wrong in ["foo", "jwt", "jwt,sign-method=RS256", "jwt,pub-key=a,sign-method=x,y=z"] {
            assert_eq!(wrong.parse::<AuthToken>(), Err(AuthTokenError), "{wrong}");
        }
    }
}
