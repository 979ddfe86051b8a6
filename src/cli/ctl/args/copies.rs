//! Arguments of `snapshot` and `make-mirror`.

use clap::{Args, Subcommand};

use super::Positional;

#[derive(Debug, Subcommand)]
pub(in crate::cli::ctl) enum SnapshotCommand {
    /// Save a snapshot of one server into FILE
    Save(Positional),
    /// Hash, revision and size of a snapshot file
    Status(Positional),
    /// Make a new member's data directory from a snapshot file
    Restore(RestoreArgs),
}

#[derive(Clone, Debug, Args)]
pub(in crate::cli::ctl) struct MirrorArgs {
    #[command(flatten)]
    pub(in crate::cli::ctl) destination: Positional,
    /// What to mirror; default everything
    #[arg(long, default_value = "")]
    pub(in crate::cli::ctl) prefix: String,
    /// Prefix at the destination; default the same
    #[arg(long, default_value = "")]
    pub(in crate::cli::ctl) dest_prefix: String,
    /// Without the prefix at the destination
    #[arg(long)]
    pub(in crate::cli::ctl) no_dest_prefix: bool,
    /// Copy nothing and follow changes from this revision on
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(in crate::cli::ctl) rev: i64,
    /// Operations in one transaction at the destination
    #[arg(long, default_value_t = 128)]
    pub(in crate::cli::ctl) max_txn_ops: u64,
    /// User at the destination as NAME:PASSWORD, or NAME with --dest-password
    #[arg(long, default_value = "")]
    pub(in crate::cli::ctl) dest_user: String,
    /// Password of --dest-user
    #[arg(long, default_value = "")]
    pub(in crate::cli::ctl) dest_password: String,
    /// Authorities of the destination's certificates
    #[arg(long, default_value = "")]
    pub(in crate::cli::ctl) dest_cacert: String,
    /// Client certificate for the destination
    #[arg(long, default_value = "")]
    pub(in crate::cli::ctl) dest_cert: String,
    /// Private key of --dest-cert
    #[arg(long, default_value = "")]
    pub(in crate::cli::ctl) dest_key: String,
    /// Speak cleartext to the destination (the default)
    #[arg(long, hide = true)]
    pub(in crate::cli::ctl) dest_insecure_transport: bool,
}

#[derive(Clone, Debug, Args)]
pub(in crate::cli::ctl) struct RestoreArgs {
    #[command(flatten)]
    pub(in crate::cli::ctl) file: Positional,
    /// Directory to make; default NAME.etcd
    #[arg(long, default_value = "")]
    pub(in crate::cli::ctl) data_dir: String,
    /// Directory that the member will have its log in; default inside the data directory
    #[arg(long, default_value = "")]
    pub(in crate::cli::ctl) wal_dir: String,
    /// The new member's name
    #[arg(long, default_value = "default")]
    pub(in crate::cli::ctl) name: String,
    /// Members of the new cluster, as NAME=URL separated by commas
    #[arg(long, default_value = "default=http://localhost:2380")]
    pub(in crate::cli::ctl) initial_cluster: String,
    /// Token of the new cluster
    #[arg(long, default_value = "etcd-cluster")]
    pub(in crate::cli::ctl) initial_cluster_token: String,
    /// The new member's peer URLs
    #[arg(long, default_value = "http://localhost:2380")]
    pub(in crate::cli::ctl) initial_advertise_peer_urls: String,
    /// Restore a file without checksum, such as a copied member/snap/db
    #[arg(long)]
    pub(in crate::cli::ctl) skip_hash_check: bool,
    /// Raise the revision by this much, so that it never falls behind what clients have seen
    #[arg(long, default_value_t = 0)]
    pub(in crate::cli::ctl) bump_revision: u64,
    /// Count everything up to the raised revision as compacted; goes with --bump-revision
    #[arg(long)]
    pub(in crate::cli::ctl) mark_compacted: bool,
}
