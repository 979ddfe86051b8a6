use std::time::Duration;

use super::*;

const RSA8: &[u8] = include_bytes!("testdata/rsa8.pem");
const RSA1: &[u8] = include_bytes!("testdata/rsa1.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("testdata/rsa.pub");
const P256: &[u8] = include_bytes!("testdata/p256.pem");
const P256_SEC1: &[u8] = include_bytes!("testdata/p256_sec1.pem");
const P256_PUBLIC: &[u8] = include_bytes!("testdata/p256.pub");
const P384_SEC1: &[u8] = include_bytes!("testdata/p384_sec1.pem");
const P384_PUBLIC: &[u8] = include_bytes!("testdata/p384.pub");
const P521: &[u8] = include_bytes!("testdata/p521.pem");
const P521_SEC1: &[u8] = include_bytes!("testdata/p521_sec1.pem");
const P521_PUBLIC: &[u8] = include_bytes!("testdata/p521.pub");
const ED: &[u8] = include_bytes!("testdata/ed.pem");
const ED_PUBLIC: &[u8] = include_bytes!("testdata/ed.pub");

fn options(method: &str) -> JwtOptions {
    JwtOptions {
        pub_key: String::new(),
        priv_key: String::new(),
        sign_method: method.to_owned(),
        ttl: Duration::from_secs(60),
    }
}

fn jwt(method: &str, private: Option<&[u8]>, public: Option<&[u8]>) -> Result<Jwt, KeyError> {
    Jwt::new(&options(method), private, public)
}

#[test]
fn every_algorithm_signs_what_it_verifies_and_nothing_else() {
    type Case = (&'static str, &'static [u8], Option<&'static [u8]>);
    let cases: [Case; 19] = [
        ("RS256", RSA8, None),
        ("RS256", RSA1, Some(RSA_PUBLIC)),
        ("RS384", RSA8, Some(RSA_PUBLIC)),
        ("RS512", RSA8, None),
        ("PS256", RSA8, None),
        ("PS384", RSA1, None),
        ("PS512", RSA8, Some(RSA_PUBLIC)),
        ("ES256", P256, None),
        ("ES256", P256_SEC1, Some(P256_PUBLIC)),
        ("ES384", P384_SEC1, None),
        ("ES384", P384_SEC1, Some(P384_PUBLIC)),
        ("ES512", P521, None),
        ("ES512", P521, Some(P521_PUBLIC)),
        ("ES512", P521_SEC1, Some(P521_PUBLIC)),
        ("EdDSA", ED, None),
        ("EdDSA", ED, Some(ED_PUBLIC)),
        ("HS256", b"secret", None),
        ("HS384", b"secret", None),
        ("HS512", b"secret", None),
    ];
    for (method, private, public) in cases {
        let jwt = jwt(method, Some(private), public).unwrap();
        let token = jwt.sign("anna", 7, 1000).unwrap();
        let claims = jwt.verify(&token, 1059).unwrap();
        assert_eq!((claims.username.as_str(), claims.revision), ("anna", 7), "{method}");
        assert_eq!(jwt.verify(&token, 1060), None, "{method}: expired");
        for at in 0..token.len() {
            // The last bits of a part's last letter may mean nothing.
            if matches!(token.as_bytes().get(at + 1), Some(b'.') | None) {
                continue;
            }
            let other = if token.as_bytes()[at] == b'A' { 'B' } else { 'A' };
            let mut forged = token.clone();
            forged.replace_range(at..=at, &other.to_string());
            assert_eq!(jwt.verify(&forged, 1000), None, "{method}: byte {at}");
        }
    }
}

/// Made by real etcd 3.5.1 with `--auth-token jwt,sign-method=ES512` and this pair of keys.
#[test]
fn a_token_of_etcd_on_p521_is_accepted_and_a_damaged_one_is_not() {
    let token = include_str!("testdata/p521.jwt").trim();
    let jwt = jwt("ES512", None, Some(P521_PUBLIC)).unwrap();
    let claims = jwt.verify(token, 0).unwrap();
    assert_eq!(claims.username, "root");
    assert_eq!(jwt.sign("root", 1, 0), Err(TokenError::VerifyOnly));
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    assert_eq!(signature.len(), 132);
    let with = |signature: &[u8]| format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    assert!(jwt.verify(&with(&signature), 0).is_some());
    let swapped = [&signature[66..], &signature[..66]].concat();
    let longer = [&signature[..], &[0]].concat();
    for wrong in [&[][..], &[0; 132], &[0xff; 132], &signature[1..], &longer, &swapped] {
        assert_eq!(jwt.verify(&with(wrong), 0), None);
    }
}

#[test]
fn the_token_does_not_choose_its_algorithm() {
    let rsa = jwt("RS256", Some(RSA8), None).unwrap();
    // The classic: a public key used as the secret of an HMAC.
    let forged = jwt("HS256", Some(RSA_PUBLIC), None).unwrap().sign("root", 1, 1000).unwrap();
    assert_eq!(rsa.verify(&forged, 1000), None);
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let claims = part(r#"{"exp":9999999999,"revision":1,"username":"root"}"#);
    let unsigned = format!("{}.{claims}.", part(r#"{"alg":"none","typ":"JWT"}"#));
    assert_eq!(rsa.verify(&unsigned, 1000), None);
    for rubbish in ["", ".", "..", "a.b.c", "a.b", &format!("{}.{claims}.x", part("{}"))] {
        assert_eq!(rsa.verify(rubbish, 1000), None, "{rubbish}");
    }
}

#[test]
fn claims_of_another_type_or_none_are_no_claims() {
    let jwt = jwt("HS256", Some(b"secret"), None).unwrap();
    let sign = |claims: &str| {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature = jwt.signer.as_ref().unwrap().sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    assert!(jwt.verify(&sign(r#"{"exp":2000,"revision":1,"username":"u"}"#), 1000).is_some());
    for wrong in [
        r#"{"revision":1,"username":"u"}"#,
        r#"{"exp":"2000","revision":1,"username":"u"}"#,
        r#"{"exp":2000,"username":"u"}"#,
        r#"{"exp":2000,"revision":-1,"username":"u"}"#,
        r#"{"exp":2000,"revision":1}"#,
        "[]",
        "",
    ] {
        assert_eq!(jwt.verify(&sign(wrong), 1000), None, "{wrong}");
    }
}

#[test]
fn keys_that_cannot_work_are_refused_at_the_start() {
    assert!(matches!(jwt("ES257", Some(P256), None), Err(KeyError::Method(_))));
    assert!(matches!(jwt("none", None, None), Err(KeyError::Method(_))));
    assert!(matches!(jwt("RS256", None, None), Err(KeyError::Missing)));
    assert!(matches!(jwt("HS256", Some(b""), None), Err(KeyError::Missing)));
    assert!(matches!(jwt("RS256", Some(P256), None), Err(KeyError::Unusable)));
    assert!(matches!(jwt("ES384", Some(P256_SEC1), None), Err(KeyError::Unusable)));
    for other in [P256, P256_SEC1, P384_SEC1, ED, RSA8, P521_PUBLIC, b"rubbish"] {
        assert!(matches!(jwt("ES512", Some(other), None), Err(KeyError::Unusable)));
    }
    assert!(matches!(jwt("ES512", Some(P521), Some(P256_PUBLIC)), Err(KeyError::Unusable)));
    assert!(matches!(jwt("ES256", Some(P521), None), Err(KeyError::Unusable)));
    assert!(matches!(jwt("ES512", None, None), Err(KeyError::Missing)));
    assert!(matches!(jwt("RS256", Some(b"rubbish"), None), Err(KeyError::Unusable)));
    assert!(matches!(jwt("RS256", Some(RSA8), Some(P256_PUBLIC)), Err(KeyError::Mismatch)));
    let only_public = jwt("RS256", None, Some(RSA_PUBLIC)).unwrap();
    assert_eq!(only_public.sign("u", 1, 0), Err(TokenError::VerifyOnly));
    let token = jwt("RS256", Some(RSA8), None).unwrap().sign("u", 1, 0).unwrap();
    assert!(only_public.verify(&token, 0).is_some());
}
