//! Commands about authentication, users and roles.

use clap::{ArgAction, Subcommand};

use super::{Positional, RangeOfKeys};

#[derive(Debug, Subcommand)]
pub(in crate::cli::ctl) enum AuthCommand {
    /// Switch authentication on
    Enable(Positional),
    /// Switch authentication off
    Disable(Positional),
    /// Whether it is on
    Status(Positional),
}

#[derive(Debug, Subcommand)]
pub(in crate::cli::ctl) enum UserCommand {
    /// Add a user: NAME:PASSWORD, or NAME and be asked
    Add {
        #[command(flatten)]
        name: Positional,
        /// Ask twice instead of reading standard input once
        #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
              default_value = "true", default_missing_value = "true")]
        interactive: bool,
        /// Password of the new user
        #[arg(long, default_value = "")]
        new_user_password: String,
        /// Without a password: for certificates only
        #[arg(long)]
        no_password: bool,
    },
    /// Remove a user
    Delete(Positional),
    /// Roles of a user
    Get {
        #[command(flatten)]
        name: Positional,
        /// Permissions of the roles too
        #[arg(long)]
        detail: bool,
    },
    /// All users
    List(Positional),
    /// Change a password
    Passwd {
        #[command(flatten)]
        name: Positional,
        /// Ask twice instead of reading standard input once
        #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
              default_value = "true", default_missing_value = "true")]
        interactive: bool,
    },
    /// Give a user a role
    GrantRole(Positional),
    /// Take a role from a user
    RevokeRole(Positional),
}

#[derive(Debug, Subcommand)]
pub(in crate::cli::ctl) enum RoleCommand {
    /// Add a role
    Add(Positional),
    /// Remove a role
    Delete(Positional),
    /// Permissions of a role
    Get(Positional),
    /// All roles
    List(Positional),
    /// Let a role read, write or readwrite a key or range
    GrantPermission(RangeOfKeys),
    /// Take that from it
    RevokePermission(RangeOfKeys),
}
