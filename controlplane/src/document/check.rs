//! How servers are asked whether they are well, as operators write it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How servers are asked whether they are well. A server's own table with a `type` stands for itself; without
/// one, its settings take the place of the same ones of its service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Check {
    /// What is asked; `on` if absent.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<CheckKind>,
    /// `5` and `10`: what is asked after so many connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negotiate: Option<CheckKind>,
    /// The time between two questions, less while a server may have stopped answering: 100 ms to 1 h; 5 s if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "5s", default = "5s")]
    pub interval: Option<String>,
    /// How long a connection, or the answer to a single packet, may take: 10 ms to 5 min; 2 s if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2s", default = "2s")]
    pub timeout: Option<String>,
    /// How long a conversation may take, its connection included: 10 ms to 5 min; 5 s if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "5s", default = "5s")]
    pub negotiate_timeout: Option<String>,
    /// After how many good answers in a row a server counts as well again; 2 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100, default = 2)]
    pub rise: Option<u32>,
    /// After how many failures in a row a server counts as not well; 2 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100, default = 2)]
    pub fall: Option<u32>,
    /// By how much a pause may be longer or shorter than `interval`, by chance, in percent; 0 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 50, default = 0)]
    pub jitter: Option<u8>,
    /// The longest pause while a server is not well: each is twice the one before; `interval` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "1m")]
    pub back_off: Option<String>,
    /// The port that is asked; if absent the server's, or the service's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
    /// The server is asked in the way that clients' packets take as well: with `dr` and `tun` at the virtual address, with
    /// `nat` from an address of ours that is not on its subnet; not by a `script`.
    #[serde(rename = "virtual", skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<bool>,
    /// `http`, `https`, `http2`, `grpc`: the virtual host; if absent that of `path`, or else the server's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "www.example.com")]
    pub host: Option<String>,
    /// `http`, `https`, `http2`: the path, or the whole address, of the page, `/` if absent. `ftp`: the file;
    /// `script`: the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/check.txt")]
    pub path: Option<String>,
    /// `http`, `https`, `http2`: `GET`, `HEAD`, `OPTIONS` or `POST`; `GET` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "GET")]
    pub method: Option<String>,
    /// `http`, `https`, `http2`, `sip`: the status codes of a good answer; `200` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "200-299,304")]
    pub status: Option<String>,
    /// A text that must stand in the answer; `dns`: an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "OK")]
    pub expect: Option<String>,
    /// A regular expression that something in the answer must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "O[kK]+")]
    pub expect_regex: Option<String>,
    /// Whether the conversation is inside TLS; always with `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<bool>,
    /// With TLS: whether the server's certificate must be good; if absent, only where `ca` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
    /// With `verify`: who may have signed it, a file in PEM; if absent those that the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "/etc/sluice/servers.pem")]
    pub ca: Option<PathBuf>,
    /// With TLS: the name that the server is asked for; `host` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "www.example.com")]
    pub sni: Option<String>,
    /// With TLS: the protocols that are offered; if absent those of the check's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["http/1.1"]))]
    pub alpn: Option<Vec<String>>,
    /// Who logs in; `sip`: who is asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// `dns`: the name that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "www.example.com")]
    pub query: Option<String>,
    /// `dns`: `A`, `AAAA`, `CNAME`, `MX`, `NS`, `PTR`, `SOA`, `SRV` or `TXT`; `A` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "A")]
    pub query_type: Option<String>,
    /// `tcp`, `udp`: what is sent, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<String>,
    /// `tcp`, `udp`: what is sent, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "00ff17")]
    pub send_hex: Option<String>,
    /// `sip`: `udp` or `tcp`; `udp` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// `grpc`: the service that is asked about; the whole server if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `script`: what it is told after the virtual address, its port, the server's address and its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Vec<String>>,
}

impl Check {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What servers are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// Nothing: they count as well.
    #[default]
    On,
    /// Nothing: they count as not well.
    Off,
    /// To open a TCP connection.
    Connect,
    /// An ICMP echo request.
    Ping,
    /// A page over HTTP/1.1.
    Http,
    /// A page over HTTP/1.1 and TLS.
    Https,
    /// A page over HTTP/2.
    Http2,
    /// gRPC's own question for health.
    Grpc,
    /// To log in to an FTP server, and for a file.
    Ftp,
    /// To log in to an IMAP server.
    Imap,
    /// To log in to a POP3 server.
    Pop,
    /// An SMTP server's greeting and its answer to EHLO.
    Smtp,
    /// An LDAP server's description of itself.
    Ldap,
    /// An NNTP server's greeting, and to log in.
    Nntp,
    /// A name, over UDP.
    Dns,
    /// A MySQL or MariaDB server's greeting, and to log in.
    Mysql,
    /// OPTIONS of a SIP server.
    Sip,
    /// Text over telnet.
    Telnet,
    /// PING of a Redis server.
    Redis,
    /// An AMQP 0-9-1 server's greeting.
    Amqp,
    /// Bytes over TCP.
    Tcp,
    /// A datagram.
    Udp,
    /// A program on this machine.
    Script,
    /// Five connections, then `negotiate`, and so on.
    #[serde(rename = "5")]
    Five,
    /// Ten connections, then `negotiate`, and so on.
    #[serde(rename = "10")]
    Ten,
}

impl CheckKind {
    /// Every one, in the order of the documentation.
    pub const ALL: [Self; 25] = [
        Self::On,
        Self::Off,
        Self::Connect,
        Self::Ping,
        Self::Http,
        Self::Https,
        Self::Http2,
        Self::Grpc,
        Self::Ftp,
        Self::Imap,
        Self::Pop,
        Self::Smtp,
        Self::Ldap,
        Self::Nntp,
        Self::Dns,
        Self::Mysql,
        Self::Sip,
        Self::Telnet,
        Self::Redis,
        Self::Amqp,
        Self::Tcp,
        Self::Udp,
        Self::Script,
        Self::Five,
        Self::Ten,
    ];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Connect => "connect",
            Self::Ping => "ping",
            Self::Http => "http",
            Self::Https => "https",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Ftp => "ftp",
            Self::Imap => "imap",
            Self::Pop => "pop",
            Self::Smtp => "smtp",
            Self::Ldap => "ldap",
            Self::Nntp => "nntp",
            Self::Dns => "dns",
            Self::Mysql => "mysql",
            Self::Sip => "sip",
            Self::Telnet => "telnet",
            Self::Redis => "redis",
            Self::Amqp => "amqp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Script => "script",
            Self::Five => "5",
            Self::Ten => "10",
        }
    }
}
