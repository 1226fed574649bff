//! What keeps a flood from taking from everybody what it asks for: connections that cost nothing until
//! the client proves its address ([`cookie`]), and shares of what is scarce ([`limits`]).

pub mod cookie;

pub mod limits;

pub mod siphash;
