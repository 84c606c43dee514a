//! Who asks.

/// How it is known who an actor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The operating system's user.
    User,
    /// A token of the OpenID provider.
    Token,
}

impl By {
    pub fn name(self) -> &'static str {
        match self {
            By::User => "user",
            By::Token => "token",
        }
    }
}

/// Somebody who asks, with the names of the roles that they have or say they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    pub name: String,
    pub by: By,
    pub roles: Vec<String>,
}

impl Actor {
    /// The user who started this process, without roles. The environment has no say in it, but for root: there it is
    /// the one who used `sudo`.
    pub fn user() -> Actor {
        let uid = match uzers::get_current_uid() {
            0 => std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok()).unwrap_or(0),
            uid => uid,
        };
        let name = uzers::get_user_by_uid(uid);
        let name = name.map(|user| user.name().to_string_lossy().into_owned());
        let name = name.unwrap_or_else(|| format!("uid {uid}"));
        Actor { name, by: By::User, roles: Vec::new() }
    }
}
