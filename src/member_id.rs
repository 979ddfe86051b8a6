//! Member and cluster ids, derived as etcd derives them.
//!
//! A member's id is the first eight bytes (big endian) of SHA-1 over its sorted peer URLs joined
//! without separator, then for an initial member the cluster token, for a member added to a
//! running cluster the Unix time of the addition in seconds as decimal digits (and no token). The
//! cluster's id is the same over the sorted ids of its first members, eight bytes big endian each.
//!
//! Invariant: equal inputs give equal ids on every member, so members that start from the same
//! `--initial-cluster` agree without talking.
//! Source: observed on etcd 3.5.1 (`member list -w json`); the tests hold those values.

use sha1::{Digest, Sha1};

/// Id of a member of the initial cluster. `peer_urls` may come in any order.
#[must_use]
pub fn initial_member_id<S: AsRef<str>>(peer_urls: &[S], cluster_token: &str) -> u64 {
    member_id(peer_urls, cluster_token)
}

/// Id of a member added later. `added_unix_s` is the time of the addition in seconds, so the same
/// URLs get a new id each second and a removed member's id does not come back.
#[must_use]
pub fn added_member_id<S: AsRef<str>>(peer_urls: &[S], added_unix_s: u64) -> u64 {
    member_id(peer_urls, &added_unix_s.to_string())
}

/// Id of the cluster whose first members have `member_ids`, in any order.
#[must_use]
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut sorted = member_ids.to_vec();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for id in sorted {
        hash.update(id.to_be_bytes());
    }
    first_eight_bytes(hash)
}

/// Id of a cluster restored from a file: as [`cluster_id`], and over what `founding` says of the
/// file and how it was restored.
#[must_use]
pub fn restored_cluster_id(member_ids: &[u64], founding: &[u8]) -> u64 {
    let mut hash = Sha1::new();
    hash.update(cluster_id(member_ids).to_be_bytes());
    hash.update(founding);
    first_eight_bytes(hash)
}

fn member_id<S: AsRef<str>>(peer_urls: &[S], suffix: &str) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(AsRef::as_ref).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url);
    }
    hash.update(suffix);
    first_eight_bytes(hash)
}

fn first_eight_bytes(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |id, byte| (id << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values printed by etcd 3.5.1 for these very flags.
    #[test]
    fn ids_equal_those_of_etcd_for_initial_members() {
        type Case<'a> = (&'a str, &'a [&'a [&'a str]], &'a [u64], u64);
        let cases: [Case; 3] = [
            (
                "etcd-cluster",
                &[&["http://localhost:2380"]],
                &[10_276_657_743_932_975_437],
                14_841_639_068_965_178_418,
            ),
            (
                "tok-3",
                &[
                    &["http://127.0.0.1:21380"],
                    &["http://127.0.0.1:22380"],
                    &["http://127.0.0.1:23380"],
                ],
                &[12_412_879_916_498_735_891, 9_195_358_431_067_167_678, 4_786_647_403_897_601_070],
                8_819_954_437_484_502_651,
            ),
            (
                "etcd-cluster",
                &[&["http://127.0.0.1:29380", "http://127.0.0.1:21380"]],
                &[11_978_717_781_231_062_516],
                17_816_163_648_034_123_222,
            ),
        ];
        for (token, members, want_members, want_cluster) in cases {
            let ids: Vec<u64> = members.iter().map(|urls| initial_member_id(urls, token)).collect();
            assert_eq!(ids, want_members, "{token}");
            assert_eq!(cluster_id(&ids), want_cluster, "{token}");
        }
    }

    /// `member add` on etcd 3.5.1 in a cluster with token `add`, run at that second.
    #[test]
    fn an_added_members_id_depends_on_the_second_and_not_on_the_order_of_urls() {
        let urls = ["http://127.0.0.1:24380", "http://127.0.0.1:14380"];
        let id = added_member_id(&urls, 1_795_501_756);
        assert_eq!(id, 15_040_829_328_774_557_471);
        assert_ne!(id, added_member_id(&urls, 1_795_501_757));
        assert_ne!(id, initial_member_id(&urls, "add"));
    }
}
