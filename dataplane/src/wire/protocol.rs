//! What follows an IP header (IANA, Assigned Internet Protocol Numbers): IPv4's "protocol" and IPv6's
//! "next header" are one list.

/// IPv6's hop-by-hop options (RFC 8200 section 4.3).
pub const HOP_BY_HOP: u8 = 0;

/// RFC 792.
pub const ICMP: u8 = 1;

/// IPv4 in IP (RFC 2003, RFC 2473).
pub const IPV4: u8 = 4;

/// RFC 9293.
pub const TCP: u8 = 6;

/// RFC 768.
pub const UDP: u8 = 17;

/// IPv6 in IP (RFC 4213, RFC 2473).
pub const IPV6: u8 = 41;

/// IPv6's routing header (RFC 8200 section 4.4).
pub const ROUTING: u8 = 43;

/// IPv6's fragment header (RFC 8200 section 4.5).
pub const FRAGMENT: u8 = 44;

/// GRE (RFC 2784).
pub const GRE: u8 = 47;

/// Encapsulating security payload (RFC 4303).
pub const ESP: u8 = 50;

/// Authentication header (RFC 4302).
pub const AUTHENTICATION: u8 = 51;

/// RFC 4443.
pub const ICMPV6: u8 = 58;

/// Nothing follows (RFC 8200 section 4.7).
pub const NOTHING: u8 = 59;

/// IPv6's options for the destination (RFC 8200 section 4.6).
pub const DESTINATION_OPTIONS: u8 = 60;

/// VRRP (RFC 9568).
pub const VRRP: u8 = 112;

/// SCTP (RFC 9260).
pub const SCTP: u8 = 132;
