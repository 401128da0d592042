//! Tokens made here with keys made here, as issuers and attackers would make them. (ring makes no RSA keys: the RSA
//! key of `testdata` was made with openssl, which also signed the tokens beside it; its private half is gone.)

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::*;

const RSA_PEM: &str = include_str!("testdata/rsa-public.pem");
const RS_TOKENS: [&str; 3] = [
    include_str!("testdata/rs256.token"),
    include_str!("testdata/rs384.token"),
    include_str!("testdata/rs512.token"),
];
/// RSA with SHA-256, and a header that says `EdDSA`.
const RS256_AS_EDDSA: &str = include_str!("testdata/rs256-as-eddsa.token");

/// In November 2026.
const NOW: i64 = 1_795_219_260;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs())
}

fn seconds(from_now: i64) -> i64 {
    NOW + from_now
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    Ec(EcdsaKeyPair, &'static str, Vec<u8>),
}

impl Signer {
    fn ed25519() -> Signer {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    fn ec(p384: bool) -> Signer {
        let (curve, alg, prefix) = if p384 {
            let prefix = "3076301006072a8648ce3d020106052b81040022036200";
            (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "ES384", prefix)
        } else {
            let prefix = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
            (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "ES256", prefix)
        };
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(curve, &random).unwrap();
        Signer::Ec(EcdsaKeyPair::from_pkcs8(curve, pkcs8.as_ref(), &random).unwrap(), alg, hex(prefix))
    }

    fn public(&self) -> &[u8] {
        match self {
            Signer::Ed25519(key) => key.public_key().as_ref(),
            Signer::Ec(key, ..) => key.public_key().as_ref(),
        }
    }

    fn pem(&self) -> String {
        let prefix = match self {
            Signer::Ed25519(_) => hex("302a300506032b6570032100"),
            Signer::Ec(_, _, prefix) => prefix.clone(),
        };
        let der = STANDARD.encode([&prefix[..], self.public()].concat());
        format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
    }

    fn jwk(&self, kid: &str) -> Value {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Signer::Ed25519(_) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": part(self.public())})
            }
            Signer::Ec(_, alg, _) => {
                let (x, y) = self.public()[1..].split_at(self.public().len() / 2);
                let crv = if *alg == "ES256" { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": crv, "kid": kid, "alg": alg, "use": "sig", "x": part(x), "y": part(y)})
            }
        }
    }

    fn token(&self, claims: &Value) -> String {
        let alg = match self {
            Signer::Ed25519(_) => "EdDSA",
            Signer::Ec(_, alg, _) => alg,
        };
        self.token_with(&json!({"alg": alg, "typ": "JWT"}), claims)
    }

    fn token_with(&self, header: &Value, claims: &Value) -> String {
        let signed = unsigned(header, claims);
        let signature = match self {
            Signer::Ed25519(key) => key.sign(signed.as_bytes()).as_ref().to_vec(),
            Signer::Ec(key, ..) => {
                key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec()
            }
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

/// An authority whose only key file has this content. The file is gone afterwards.
fn authority(key_file: &str) -> Authority {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "key", key_file);
    Authority::new(&AuthOptions { key_files: vec![path], ..AuthOptions::default() }).unwrap()
}

fn write(dir: &Path, name: &str, content: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn setup_error(key_file: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "key", key_file);
    Authority::new(&AuthOptions { key_files: vec![path], ..AuthOptions::default() }).unwrap_err().to_string()
}

fn check(authority: &Authority, token: &str, database: &str) -> Result<Access, Denied> {
    authority.check(Some(token), database, now())
}

const FORGED: Result<Access, Denied> = Err(Denied::Invalid(InvalidToken::Signature));

#[test]
fn a_token_by_every_kind_of_key_is_accepted_and_one_by_another_key_is_not() {
    for make in [Signer::ed25519, || Signer::ec(false), || Signer::ec(true)] {
        let (own, other) = (make(), make());
        for authority in [authority(&own.pem()), authority(&json!({"keys": [own.jwk("k")]}).to_string())] {
            assert_eq!(check(&authority, &own.token(&json!({})), "shop"), Ok(Access::ReadWrite));
            assert_eq!(check(&authority, &other.token(&json!({})), "shop"), FORGED);
        }
    }
}

#[test]
fn rsa_tokens_of_all_three_hashes_are_accepted_and_changed_ones_are_not() {
    let (modulus, exponent) = {
        let der =
            STANDARD.decode(RSA_PEM.lines().filter(|l| !l.starts_with('-')).collect::<String>()).unwrap();
        let (n, e) = der::rsa_public_key(der::public_key_info(&der).unwrap().key).unwrap();
        (URL_SAFE_NO_PAD.encode(n), URL_SAFE_NO_PAD.encode(e))
    };
    let jwk = json!({"kty": "RSA", "n": modulus, "e": exponent});
    for authority in [authority(RSA_PEM), authority(&jwk.to_string())] {
        for token in RS_TOKENS {
            assert_eq!(check(&authority, token, "shop"), Ok(Access::ReadOnly));
            let (header, rest) = token.trim().split_once('.').unwrap();
            let wider = URL_SAFE_NO_PAD.encode(json!({"a": "rw"}).to_string());
            let changed = format!("{header}.{wider}.{}", rest.split_once('.').unwrap().1);
            assert_eq!(check(&authority, &changed, "shop"), FORGED);
        }
    }
    let pinned = authority(&json!({"kty": "RSA", "n": modulus, "e": exponent, "alg": "RS384"}).to_string());
    assert_eq!(RS_TOKENS.map(|token| check(&pinned, token, "shop").is_ok()), [false, true, false]);
}

#[test]
fn the_key_file_of_libsqls_server_works_as_it_is() {
    let key = Signer::ed25519();
    let token = key.token(&json!({"a": "ro"}));
    for text in [
        STANDARD.encode(key.public()),
        URL_SAFE_NO_PAD.encode(key.public()),
        format!("{}\n", URL_SAFE_NO_PAD.encode(key.public())),
        key.pem(),
    ] {
        assert_eq!(check(&authority(&text), &token, "shop"), Ok(Access::ReadOnly), "{text}");
    }
}

#[test]
fn every_key_of_a_file_and_of_several_files_counts() {
    let signers: Vec<_> = (0..4).map(|_| Signer::ed25519()).collect();
    let dir = tempfile::tempdir().unwrap();
    let key_files = vec![
        write(dir.path(), "a", &(signers[0].pem() + &signers[1].pem())),
        write(
            dir.path(),
            "b",
            &format!(
                "# two\n{}\n{}\n",
                STANDARD.encode(signers[2].public()),
                STANDARD.encode(signers[3].public())
            ),
        ),
    ];
    let authority = Authority::new(&AuthOptions { key_files, ..AuthOptions::default() }).unwrap();
    for signer in &signers {
        assert_eq!(check(&authority, &signer.token(&json!({})), "shop"), Ok(Access::ReadWrite));
    }
    assert_eq!(check(&authority, &Signer::ed25519().token(&json!({})), "shop"), FORGED);
}

#[test]
fn a_key_id_narrows_the_keys_of_a_jwks() {
    let (one, two) = (Signer::ed25519(), Signer::ed25519());
    let authority = authority(&json!({"keys": [one.jwk("1"), two.jwk("2")]}).to_string());
    let token = |kid| one.token_with(&json!({"alg": "EdDSA", "kid": kid}), &json!({}));
    assert_eq!(check(&authority, &token("1"), "shop"), Ok(Access::ReadWrite));
    assert_eq!(check(&authority, &token("2"), "shop"), FORGED);
    assert_eq!(check(&authority, &one.token(&json!({})), "shop"), Ok(Access::ReadWrite));
}

#[test]
fn keys_of_a_jwks_that_are_for_something_else_are_passed_over() {
    let key = Signer::ed25519();
    let encrypts = Signer::ed25519();
    let mut encryption = encrypts.jwk("e");
    encryption["use"] = json!("enc");
    let set = json!({"keys": [
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "RSA", "alg": "PS256", "n": "AQ", "e": "AQ"},
        {"kty": "EC", "crv": "secp256k1", "x": "", "y": ""},
        encryption,
        key.jwk("k"),
    ]});
    let authority = authority(&set.to_string());
    assert_eq!(check(&authority, &key.token(&json!({})), "shop"), Ok(Access::ReadWrite));
    assert_eq!(check(&authority, &encrypts.token(&json!({})), "shop"), FORGED);
    assert!(
        setup_error(&json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}).to_string())
            .contains("no public key")
    );
}

#[test]
fn a_token_without_a_signature_is_refused() {
    let key = Signer::ed25519();
    let authority = authority(&key.pem());
    for alg in ["none", "None", ""] {
        let token = unsigned(&json!({"alg": alg}), &json!({"a": "rw"})) + ".";
        assert_eq!(check(&authority, &token, "shop"), Err(Denied::Invalid(InvalidToken::Algorithm)));
    }
    let empty = unsigned(&json!({"alg": "EdDSA"}), &json!({})) + ".";
    assert_eq!(check(&authority, &empty, "shop"), FORGED);
}

#[test]
fn a_public_key_is_never_taken_for_a_shared_secret() {
    let key = Signer::ed25519();
    let signed = unsigned(&json!({"alg": "HS256", "typ": "JWT"}), &json!({}));
    for file in [key.pem(), RSA_PEM.to_owned()] {
        let authority = authority(&file);
        for secret in [file.as_bytes(), file.trim().as_bytes(), key.public()] {
            let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
            let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.as_ref()));
            assert_eq!(check(&authority, &token, "shop"), Err(Denied::Invalid(InvalidToken::Algorithm)));
        }
    }
}

#[test]
fn a_token_that_claims_the_algorithm_of_another_kind_of_key_is_refused() {
    let (ed, ec) = (Signer::ed25519(), Signer::ec(false));
    let authority = authority(&(ed.pem() + &ec.pem() + RSA_PEM));
    for (signer, honest) in [(&ed, "EdDSA"), (&ec, "ES256")] {
        for alg in ["EdDSA", "ES256", "ES384", "RS256", "RS384", "RS512"] {
            let answer = check(&authority, &signer.token_with(&json!({"alg": alg}), &json!({})), "shop");
            assert_eq!(answer.is_ok(), alg == honest, "{alg}: {answer:?}");
        }
    }
    assert_eq!(check(&authority, RS256_AS_EDDSA, "shop"), FORGED);
}

#[test]
fn a_token_that_demands_an_unknown_extension_is_refused() {
    let key = Signer::ed25519();
    for crit in [json!(["exp"]), json!(["b64"]), json!([])] {
        let token = key.token_with(&json!({"alg": "EdDSA", "crit": crit}), &json!({}));
        assert_eq!(
            check(&authority(&key.pem()), &token, "shop"),
            Err(Denied::Invalid(InvalidToken::Extension))
        );
    }
}

#[test]
fn times_count_with_a_little_leeway_and_may_be_absent() {
    let key = Signer::ed25519();
    let authority = authority(&key.pem());
    let answer = |claims: Value| check(&authority, &key.token(&claims), "shop");
    assert_eq!(answer(json!({})), Ok(Access::ReadWrite));
    assert_eq!(answer(json!({"exp": seconds(1)})), Ok(Access::ReadWrite));
    assert_eq!(answer(json!({"exp": seconds(-29)})), Ok(Access::ReadWrite));
    assert_eq!(answer(json!({"exp": seconds(-31)})), Err(Denied::Expired));
    assert_eq!(answer(json!({"exp": seconds(-31) as f64 + 0.5})), Err(Denied::Expired));
    assert_eq!(answer(json!({"exp": -1})), Err(Denied::Expired));
    assert_eq!(answer(json!({"exp": null})), Ok(Access::ReadWrite));
    assert_eq!(answer(json!({"nbf": seconds(29)})), Ok(Access::ReadWrite));
    assert_eq!(answer(json!({"nbf": seconds(31)})), Err(Denied::NotYetValid));
    assert_eq!(answer(json!({"exp": "tomorrow"})), Err(Denied::Invalid(InvalidToken::Claims)));
}

#[test]
fn an_expired_token_by_another_key_is_not_told_that_it_expired() {
    let token = Signer::ed25519().token(&json!({"exp": 1}));
    assert_eq!(check(&authority(&Signer::ed25519().pem()), &token, "shop"), FORGED);
}

#[test]
fn a_subject_is_told_and_grants_nothing() {
    let key = Signer::ed25519();
    let authority = authority(&key.pem());
    let long = "ä".repeat(100);
    for (claims, subject) in [
        (json!({"sub": "phone-1"}), Some("phone-1")),
        (json!({"sub": 7}), None),
        (json!({"sub": long}), Some(&long[..128])),
        (json!({}), None),
    ] {
        let grant = authority.authenticate(Some(&key.token(&claims)), now()).unwrap();
        assert_eq!(grant.subject(), subject, "{claims}");
        assert!(grant.require_admin().is_err());
    }
}

#[test]
fn claims_grant_what_they_grant_on_libsqls_server() {
    let key = Signer::ed25519();
    let authority = authority(&key.pem());
    let (ro, rw, no) = (Ok(Access::ReadOnly), Ok(Access::ReadWrite), Err(Denied::OtherDatabase));
    for (claims, shop, bank) in [
        (json!({}), rw, rw),
        (json!({"a": "rw"}), rw, rw),
        (json!({"a": "ro"}), ro, ro),
        (json!({"id": "shop"}), rw, no),
        (json!({"id": "shop", "a": "ro"}), ro, no),
        (json!({"p": {"ro": {"ns": ["shop"]}, "rw": {"ns": ["bank"]}}}), ro, rw),
        (json!({"p": {"ro": {"ns": ["shop"]}, "rw": {"ns": ["shop"]}}}), rw, no),
        (json!({"p": {"roa": {"ns": ["shop"]}, "rwa": {"ns": ["bank"]}}}), ro, rw),
        (json!({"id": "bank", "a": "rw", "p": {"ro": {"ns": ["shop"]}}}), ro, no),
        (json!({"p": {}}), no, no),
        (json!({"p": {"rw": {}}}), no, no),
        (json!({"iat": 1, "rid": "x", "sub": "y"}), rw, rw),
    ] {
        let token = key.token(&claims);
        assert_eq!(
            (check(&authority, &token, "shop"), check(&authority, &token, "bank")),
            (shop, bank),
            "{claims}"
        );
    }
}

#[test]
fn a_restriction_that_is_not_understood_is_not_overlooked() {
    let key = Signer::ed25519();
    let authority = authority(&key.pem());
    for claims in [
        json!({"a": "superuser"}),
        json!({"a": 1}),
        json!({"id": ["shop"]}),
        json!({"p": {"rw": {"ns": ["shop"], "tables": {"orders": ["data_read"]}}}}),
        json!({"p": {"tables": ["orders"]}}),
        json!({"p": "rw"}),
        json!("rw"),
    ] {
        let answer = check(&authority, &key.token(&claims), "shop");
        assert_eq!(answer, Err(Denied::Invalid(InvalidToken::Claims)), "{claims}");
    }
}

#[test]
fn an_audience_must_be_one_of_this_server() {
    let key = Signer::ed25519();
    let dir = tempfile::tempdir().unwrap();
    let key_files = vec![write(dir.path(), "key", &key.pem())];
    let audiences = vec!["https://sync.example".to_owned()];
    let own = Authority::new(&AuthOptions { key_files, audiences, ..AuthOptions::default() }).unwrap();
    let none = authority(&key.pem());
    for (aud, fits) in [
        (json!("https://sync.example"), true),
        (json!(["other", "https://sync.example"]), true),
        (json!("other"), false),
        (json!([]), false),
    ] {
        let token = key.token(&json!({"aud": aud}));
        let refused = Err(Denied::Invalid(InvalidToken::Audience));
        assert_eq!(check(&own, &token, "shop"), if fits { Ok(Access::ReadWrite) } else { refused });
        assert_eq!(check(&none, &token, "shop"), refused);
    }
    assert_eq!(check(&own, &key.token(&json!({})), "shop"), Ok(Access::ReadWrite));
}

#[test]
fn static_tokens_have_an_access_and_databases() {
    let dir = tempfile::tempdir().unwrap();
    let file =
        write(dir.path(), "tokens", "# all\nmaster-token\nreader-token ro\n\nshop-token rw shop,till\n");
    let authority = Authority::new(&AuthOptions {
        token_files: vec![file],
        tokens: vec!["listed-token ro bank".into()],
        ..AuthOptions::default()
    })
    .unwrap();
    let (ro, rw, no) = (Ok(Access::ReadOnly), Ok(Access::ReadWrite), Err(Denied::OtherDatabase));
    for (token, shop, bank) in
        [("master-token", rw, rw), ("reader-token", ro, ro), ("shop-token", rw, no), ("listed-token", no, ro)]
    {
        assert_eq!((check(&authority, token, "shop"), check(&authority, token, "bank")), (shop, bank));
    }
    assert_eq!(check(&authority, "shop-token", "till"), rw);
    for wrong in ["master-toke", "master-tokens", "MASTER-TOKEN", "# all", "a.b.c"] {
        let answer = check(&authority, wrong, "shop");
        assert_eq!(answer, Err(Denied::Invalid(InvalidToken::Unknown)), "{wrong}");
    }
    assert_eq!(authority.check(None, "shop", now()), Err(Denied::Missing));
    assert_eq!(authority.check(Some("  "), "shop", now()), Err(Denied::Missing));
}

#[test]
fn administration_is_granted_by_name_only() {
    let tokens = ["master-token rw", "boss-token admin", "shop-boss admin shop"].map(str::to_owned).to_vec();
    let by_token = Authority::new(&AuthOptions { tokens, ..AuthOptions::default() }).unwrap();
    let admin = |authority: &Authority, token: Option<&str>| {
        authority.authenticate(token, now()).and_then(|grant| grant.require_admin())
    };
    assert_eq!(admin(&by_token, Some("boss-token")), Ok(()));
    assert_eq!(admin(&by_token, Some("shop-boss")), Ok(()));
    assert_eq!(admin(&by_token, Some("master-token")), Err(Denied::NotAdmin));
    assert_eq!(check(&by_token, "boss-token", "shop"), Ok(Access::ReadWrite));
    assert_eq!(check(&by_token, "shop-boss", "bank"), Err(Denied::OtherDatabase));
    let key = Signer::ed25519();
    let keys = authority(&key.pem());
    for (claims, granted) in [
        (json!({}), Err(Denied::NotAdmin)),
        (json!({"admin": false}), Err(Denied::NotAdmin)),
        (json!({"admin": true}), Ok(())),
        (json!({"admin": 1}), Err(Denied::Invalid(InvalidToken::Claims))),
    ] {
        assert_eq!(admin(&keys, Some(&key.token(&claims))), granted, "{claims}");
    }
    for anonymous_admin in [false, true] {
        let options = AuthOptions { anonymous: true, anonymous_admin, ..AuthOptions::default() };
        assert_eq!(admin(&Authority::new(&options).unwrap(), None).is_ok(), anonymous_admin);
    }
}

#[test]
fn static_tokens_that_cannot_be_right_are_errors_that_do_not_quote_them() {
    for line in ["hunter2", "secret-token write", "secret-token ro a b", "secret-token\nsecret-token"] {
        let dir = tempfile::tempdir().unwrap();
        let token_files = vec![write(dir.path(), "t", line)];
        let error = Authority::new(&AuthOptions { token_files, ..AuthOptions::default() }).unwrap_err();
        assert!(error.to_string().contains(": line "), "{error}");
        assert!(!format!("{error} {error:?}").contains(&line[..7]), "{error:?}");
    }
    let tokens = vec!["good-enough".into(), "hunter2".into()];
    let error = Authority::new(&AuthOptions { tokens, ..AuthOptions::default() }).unwrap_err();
    assert!(matches!(error, AuthSetupError::Token { number: 2, .. }), "{error}");
}

#[test]
fn anonymous_access_is_for_those_without_a_token() {
    let anonymous = Authority::new(&AuthOptions { anonymous: true, ..AuthOptions::default() }).unwrap();
    assert_eq!(anonymous.check(None, "shop", now()), Ok(Access::ReadWrite));
    assert_eq!(anonymous.check(Some("whatever"), "shop", now()), Ok(Access::ReadWrite));
    let tokens = vec!["reader-token ro".into()];
    let both = Authority::new(&AuthOptions { anonymous: true, tokens, ..AuthOptions::default() }).unwrap();
    assert_eq!(both.check(None, "shop", now()), Ok(Access::ReadWrite));
    assert_eq!(both.check(Some("reader-token"), "shop", now()), Ok(Access::ReadOnly));
    assert!(both.check(Some("whatever"), "shop", now()).is_err());
}

#[test]
fn nothing_configured_is_an_error_and_not_an_open_door() {
    assert!(matches!(Authority::new(&AuthOptions::default()), Err(AuthSetupError::Nothing)));
}

#[test]
fn files_that_hold_no_usable_key_say_why() {
    let pkcs8 = STANDARD.encode(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref());
    let mut private = Signer::ed25519().jwk("k");
    private["d"] = json!("AAAA");
    let pem = |prefix: &str, key: &[u8]| {
        let der = STANDARD.encode([&hex(prefix)[..], key].concat());
        format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
    };
    for (file, says) in [
        (String::new(), "no public key"),
        ("not base64!".into(), "neither PEM"),
        (STANDARD.encode([7; 31]), "32 bytes"),
        (format!("-----BEGIN PRIVATE KEY-----\n{pkcs8}\n-----END PRIVATE KEY-----\n"), "private key"),
        (private.to_string(), "private key"),
        (Signer::ed25519().pem().replace("-----END", "-----EDN"), "PEM"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".into(), "public key"),
        // A bit string with a bit too few; a point that is not uncompressed; a curve that JWTs do not use.
        (pem("302a300506032b6570032101", &[7; 32]), "does not hold a public key"),
        (pem("3059301306072a8648ce3d020106082a8648ce3d030107034200", &[2; 65]), "point"),
        (pem("302a300506032b656e032100", &[7; 32]), "another kind"),
        ("{\"keys\": 1}".into(), "JWKS"),
        (
            json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([255; 128]), "e": "AQAB"}).to_string(),
            "1024 bits",
        ),
        (json!({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}).to_string(), "point"),
    ] {
        let error = setup_error(&file);
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn keys_are_rotated_without_a_restart() {
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "key", &old.pem());
    let options = AuthOptions { key_files: vec![path.clone()], ..AuthOptions::default() };
    let authority = Authority::new(&options).unwrap();
    let token = new.token(&json!({}));
    assert_eq!(check(&authority, &token, "shop"), FORGED);
    std::fs::write(&path, old.pem() + &new.pem()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while check(&authority, &token, "shop").is_err() {
        assert!(Instant::now() < deadline, "the new key was never read");
        std::thread::yield_now();
    }
    assert_eq!(check(&authority, &old.token(&json!({})), "shop"), Ok(Access::ReadWrite));
}

#[test]
fn no_token_and_no_claim_is_in_what_is_printed() {
    let secret = "very-secret-token";
    let tokens = vec![format!("{secret} ro secret-database")];
    let options = AuthOptions { tokens, ..AuthOptions::default() };
    let authority = Authority::new(&options).unwrap();
    let denied = check(&authority, secret, "shop").unwrap_err();
    let printed = format!("{options:?} {authority:?} {denied} {denied:?}");
    assert!(!printed.contains("secret"), "{printed}");
}

#[test]
fn callers_are_told_apart_by_their_tokens() {
    let one = Authority::new(&AuthOptions { anonymous: true, ..AuthOptions::default() }).unwrap();
    let two = Authority::new(&AuthOptions { anonymous: true, ..AuthOptions::default() }).unwrap();
    assert_eq!(one.caller("token-a"), one.caller("token-a"));
    assert_ne!(one.caller("token-a"), one.caller("token-b"));
    assert_ne!(one.caller("token-a"), two.caller("token-a"));
}

#[test]
fn only_the_bearer_scheme_carries_a_token() {
    assert_eq!(bearer_of("Bearer abc"), Some("abc"));
    assert_eq!(bearer_of("bearer  abc "), Some("abc"));
    assert_eq!(bearer_of("Basic abc"), None);
    assert_eq!(bearer_of("abc"), None);
}

#[test]
fn refusals_have_the_status_that_clients_act_on() {
    assert_eq!(Denied::Missing.status(), 401);
    assert_eq!(Denied::Expired.status(), 401);
    assert_eq!(Denied::OtherDatabase.status(), 403);
    assert_eq!(Access::ReadOnly.require_write().unwrap_err().status(), 403);
    assert_eq!(Access::ReadWrite.require_write(), Ok(()));
}

proptest! {
    #[test]
    fn whatever_is_sent_as_a_token_is_refused_without_a_panic(token in "[A-Za-z0-9_.=-]{0,200}|\\PC{0,50}") {
        let authority = authority(RSA_PEM);
        prop_assert!(check(&authority, &token, "shop").is_err());
    }

    #[test]
    fn a_token_with_any_bit_flipped_is_refused(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let key = Signer::ed25519();
        let mut token = key.token(&json!({"a": "ro"})).into_bytes();
        let at = at.index(token.len());
        token[at] ^= 1 << bit;
        if let Ok(token) = String::from_utf8(token) {
            // Whitespace around a token is no part of it.
            prop_assert!(check(&authority(&key.pem()), &token, "shop").is_err());
        }
    }

    #[test]
    fn whatever_is_in_a_key_file_is_understood_or_refused_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        der in prop::collection::vec(prop::sample::select(vec![0x30_u8, 0x06, 0x03, 0x02, 0x82, 0x81, 0, 1, 3, 0x2a]), 0..40),
    ) {
        let _ = keys::parse(&bytes);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&der));
        prop_assert!(keys::parse(pem.as_bytes()).is_err());
    }
}

#[test]
fn a_token_of_absurd_length_is_refused_before_it_is_parsed() {
    let key = Signer::ed25519();
    let token = key.token(&json!({"x": "y".repeat(20_000)}));
    assert_eq!(check(&authority(&key.pem()), &token, "shop"), Err(Denied::Invalid(InvalidToken::TooLong)));
}
