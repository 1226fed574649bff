//! `[[trigger]]`: what is done when something changes.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use super::address::{duration, seconds};
use super::alerts::{Secret, Trust, Webhook, secret, url};
use super::settings::word;
use super::{About, Actual, Deed, Happening, Service, State, Via, name};
use crate::document;
use crate::field::{Field, Invalid, Refusals, Shape, Table};

/// How many triggers a node can have.
const MAX_TRIGGERS: usize = 256;
/// How many things a trigger can do.
const MAX_ACTIONS: usize = 16;
/// How many arguments a script can have.
const MAX_ARGUMENTS: usize = 32;
/// The longest argument, in bytes.
const LONGEST_ARGUMENT: usize = 1024;
/// How long a script or a receiver may take unless the operator says otherwise, in seconds.
const TIMEOUT: u32 = 10;

/// What is done when something changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    /// Its name, which no other trigger has.
    pub name: String,
    /// When it runs.
    pub on: On,
    /// What it does, in this order; at least one thing.
    pub actions: Vec<Action>,
    /// How many times a minute it runs at most.
    pub rate: u32,
}

/// Which changes set a trigger off.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct On {
    /// What kind of thing changes.
    pub event: Happening,
    /// Only this virtual service, or its servers.
    pub service: Option<String>,
    /// Only this real server of that service.
    pub server: Option<String>,
    /// Only when this is its new state.
    pub state: Option<Actual>,
}

/// One thing that a trigger does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Says what is wanted of a server.
    Want {
        /// As the operator wrote it: `enable` and `online` mean the same, and so on.
        deed: Deed,
        /// The virtual service.
        service: String,
        /// Its server.
        server: String,
        /// What is wanted.
        state: State,
    },
    /// Says whether a virtual service takes new connections.
    Service {
        /// Which one.
        service: String,
        /// Whether it does.
        enabled: bool,
    },
    /// Sets a server's weight.
    Weight {
        /// The virtual service.
        service: String,
        /// Its server.
        server: String,
        /// The share of new connections.
        weight: u16,
    },
    /// Runs a program.
    Script {
        /// Below the directory of scripts, with no way out of it.
        path: PathBuf,
        /// What it is given on its command line.
        arguments: Vec<String>,
        /// How long it may take, in seconds.
        timeout: u32,
    },
    /// Sends the event to an HTTP server, once.
    Webhook(Webhook),
}

const TRIGGER: Shape = Shape { known: &["name", "on", "do", "rate"], later: &[] };

pub(super) fn triggers(field: &Field<'_>, via: Via, refusals: &mut Refusals) -> Vec<Trigger> {
    let items = field.items(MAX_TRIGGERS, "a list of triggers, [[trigger]] in TOML");
    let Some(items) = refusals.keep(items) else { return Vec::new() };
    let mut names = HashSet::new();
    items.iter().filter_map(|item| trigger(item, via, &mut names, refusals)).collect()
}

fn trigger(
    item: &Field<'_>,
    via: Via,
    names: &mut HashSet<String>,
    refusals: &mut Refusals,
) -> Option<Trigger> {
    let table = item.table(&TRIGGER, refusals)?;
    let field = table.at("name");
    let name = name(&field).and_then(|name| match names.insert(name.clone()) {
        true => Ok(name),
        false => Err(field.expected("a name that no other trigger has")),
    });
    let name = refusals.keep(name);
    let on = on(&table.at("on"), refusals);
    let actions = actions(&table.at("do"), via, refusals);
    let rate = refusals.keep(table.at("rate").or(60, |field| field.number(1..=6000)));
    Some(Trigger { name: name?, on: on?, actions: actions?, rate: rate? })
}

const ON: Shape = Shape { known: &["event", "service", "server", "state"], later: &[] };

fn on(field: &Field<'_>, refusals: &mut Refusals) -> Option<On> {
    let table = field.table(&ON, refusals)?;
    let event_field = table.at("event");
    let event = refusals.keep(event_field.or(Happening::default(), happening));
    let (service_field, server_field) = (table.at("service"), table.at("server"));
    let service = refusals.keep(service_field.optional(name));
    let server = refusals.keep(server_field.optional(name));
    let state_field = table.at("state");
    let words = [
        ("up", Actual::Up),
        ("closing", Actual::Closing),
        ("down", Actual::Down),
        ("disabled", Actual::Disabled),
        ("drain", Actual::Drain),
        ("halt", Actual::Halt),
    ];
    let expected = "up, closing, down, disabled, drain or halt";
    let state = refusals.keep(state_field.optional(|field| word(field, expected, &words)));
    let on = On { event: event?, service: service?, server: server?, state: state? };
    let is_server = on.event == Happening::Server;
    let has_state = is_server || on.event == Happening::Service;
    let mut refuse = |wrong: bool, field: &Field<'_>, expected: &str| {
        if wrong {
            refusals.add(field.expected(expected));
        }
    };
    let wrong = on.service.is_some() && !has_state;
    refuse(wrong, &service_field, "no service: only events server and service have one");
    let wrong = on.server.is_some() && !is_server;
    refuse(wrong, &server_field, "no server: only the event server has one");
    let wrong = on.server.is_some() && on.service.is_none() && is_server;
    refuse(wrong, &service_field, "the service: a server is named within one");
    let wrong = on.state.is_some() && !has_state;
    refuse(wrong, &state_field, "no state: only events server and service have one");
    Some(on)
}

fn happening(field: &Field<'_>) -> Result<Happening, Invalid> {
    if matches!(field.text(255, ""), Ok("role")) {
        return Err(field.expected(
            "server, service, worker, address or configuration (no role: a second node is not there yet)",
        ));
    }
    let words = [
        ("server", Happening::Server),
        ("service", Happening::Service),
        ("worker", Happening::Worker),
        ("address", Happening::Address),
        ("configuration", Happening::Configuration),
    ];
    word(field, "server, service, worker, address or configuration", &words)
}

fn actions(field: &Field<'_>, via: Via, refusals: &mut Refusals) -> Option<Vec<Action>> {
    let expected = "a list of actions, such as \
                    [{ action = \"enable\", service = \"sftp\", server = \"sftp2\" }]";
    if !field.is_given() {
        refusals.add(field.expected(expected));
        return None;
    }
    let items = refusals.keep(field.items(MAX_ACTIONS, expected))?;
    if items.is_empty() {
        refusals.add(field.refuse(expected, "an empty list"));
        return None;
    }
    let read: Vec<_> = items.iter().map(|item| action(item, via, refusals)).collect();
    read.into_iter().collect()
}

const ACTION: Shape = Shape {
    known: &["action", "service", "server", "weight", "path", "args", "timeout", "url", "secret"],
    later: &[],
};

const DEEDS: [(&str, Deed); 7] = [
    ("enable", Deed::Enable),
    ("disable", Deed::Disable),
    ("drain", Deed::Drain),
    ("online", Deed::Online),
    ("weight", Deed::Weight),
    ("script", Deed::Script),
    ("webhook", Deed::Webhook),
];

fn action(item: &Field<'_>, via: Via, refusals: &mut Refusals) -> Option<Action> {
    let table = item.table(&ACTION, refusals)?;
    let expected = "enable, disable, drain, online, weight, script or webhook";
    let deed = refusals.keep(word(&table.at("action"), expected, &DEEDS));
    let Some(deed) = deed else {
        each_by_itself(&table, via, refusals);
        return None;
    };
    let own: &[&str] = match deed {
        Deed::Enable | Deed::Disable | Deed::Drain | Deed::Online => &["service", "server"],
        Deed::Weight => &["service", "server", "weight"],
        Deed::Script => &["path", "args", "timeout"],
        Deed::Webhook => &["timeout", "url", "secret"],
    };
    let mut belongs = true;
    for &other in ACTION.known.iter().skip(1).filter(|known| !own.contains(known)) {
        let field = table.at(other);
        if field.is_given() {
            belongs = false;
            let expected = format!("nothing: {} has no {other}", shown(deed));
            refusals.add(field.refuse(expected, "something"));
        }
    }
    let read = match deed {
        Deed::Script => script(&table, refusals),
        Deed::Webhook => webhook(&table, via, refusals),
        _ => change(deed, &table, refusals),
    };
    read.filter(|_| belongs)
}

fn shown(deed: Deed) -> &'static str {
    DEEDS.iter().find(|(_, known)| *known == deed).map_or("", |(word, _)| word)
}

/// Of an action that is not known, no more can be judged.
fn each_by_itself(table: &Table<'_>, via: Via, refusals: &mut Refusals) {
    refusals.keep(table.at("service").optional(name));
    refusals.keep(table.at("server").optional(name));
    refusals.keep(table.at("weight").optional(weight));
    refusals.keep(table.at("path").optional(inner));
    arguments(&table.at("args"), refusals);
    refusals.keep(table.at("timeout").or(TIMEOUT, timeout));
    refusals.keep(table.at("url").optional(|field| url(field, via)));
    refusals.keep(table.at("secret").optional(secret));
}

fn change(deed: Deed, table: &Table<'_>, refusals: &mut Refusals) -> Option<Action> {
    let service = refusals.keep(name(&table.at("service")));
    let server_field = table.at("server");
    let may_be_whole = matches!(deed, Deed::Enable | Deed::Disable);
    let server = match may_be_whole {
        true => refusals.keep(server_field.optional(name)),
        false => refusals.keep(name(&server_field).map(Some)),
    };
    if deed == Deed::Weight {
        let weight = refusals.keep(weight(&table.at("weight")));
        return Some(Action::Weight { service: service?, server: server??, weight: weight? });
    }
    let state = match deed {
        Deed::Disable => State::Halt,
        Deed::Drain => State::Drain,
        _ => State::Online,
    };
    Some(match (service?, server?) {
        (service, Some(server)) => Action::Want { deed, service, server, state },
        (service, None) => Action::Service { service, enabled: deed == Deed::Enable },
    })
}

fn weight(field: &Field<'_>) -> Result<u16, Invalid> {
    field.number(0..=u32::from(u16::MAX)).map(|weight| weight as u16)
}

fn timeout(field: &Field<'_>) -> Result<u32, Invalid> {
    duration(field, 1, 60)
}

fn script(table: &Table<'_>, refusals: &mut Refusals) -> Option<Action> {
    let path = refusals.keep(inner(&table.at("path")));
    let arguments = arguments(&table.at("args"), refusals);
    let timeout = refusals.keep(table.at("timeout").or(TIMEOUT, timeout));
    Some(Action::Script { path: path?, arguments: arguments?, timeout: timeout? })
}

/// A path that stays below the directory that it is put on.
fn inner(field: &Field<'_>) -> Result<PathBuf, Invalid> {
    let expected = "the path of a file below node.scripts, such as sftp1-down.sh";
    let text = field.text(255, expected)?;
    let path = Path::new(text);
    let stays = path.components().all(|part| matches!(part, Component::Normal(_)));
    let is_path = !text.is_empty() && !text.contains('\0') && stays;
    if is_path { Ok(path.into()) } else { Err(field.expected(expected)) }
}

fn arguments(field: &Field<'_>, refusals: &mut Refusals) -> Option<Vec<String>> {
    let items =
        refusals.keep(field.items(MAX_ARGUMENTS, "a list of arguments, such as [\"-v\"]"))?;
    let argument = |item: &Field<'_>| {
        let text = item.text(LONGEST_ARGUMENT, "an argument")?;
        match text.contains('\0') {
            true => Err(item.expected("an argument without a zero byte")),
            false => Ok(text.to_owned()),
        }
    };
    let read: Vec<_> = items.iter().map(|item| refusals.keep(argument(item))).collect();
    read.into_iter().collect()
}

fn webhook(table: &Table<'_>, via: Via, refusals: &mut Refusals) -> Option<Action> {
    let url = refusals.keep(url(&table.at("url"), via));
    let secret = refusals.keep(table.at("secret").optional(secret));
    let timeout = refusals.keep(table.at("timeout").or(TIMEOUT, timeout));
    Some(Action::Webhook(Webhook {
        url: url?,
        secret: secret?,
        trust: Trust { verify: true, ca: None },
        timeout: timeout?,
        retries: 0,
        about: About::ALL.map(|(_, about)| about).into(),
    }))
}

/// Refuses triggers that speak of services and servers that are not there: nothing would ever come of them.
pub(super) fn together(
    field: &Field<'_>,
    triggers: &[Trigger],
    services: &[Service],
    refusals: &mut Refusals,
) {
    let mut check = |path: String, service: Option<&str>, server: Option<&str>| {
        let Some(name) = service else { return };
        let Some(service) = services.iter().find(|service| service.name == name) else {
            let (expected, found) = ("the name of a service".into(), format!("\"{name}\""));
            return refusals.add(Invalid { path: format!("{path}.service"), expected, found });
        };
        let Some(name) = server else { return };
        if !service.servers.iter().any(|server| server.name == name) {
            let expected = format!("the name of a server of {}", service.name);
            let (path, found) = (format!("{path}.server"), format!("\"{name}\""));
            refusals.add(Invalid { path, expected, found });
        }
    };
    for (position, trigger) in triggers.iter().enumerate() {
        let own = format!("{}[{position}]", field.path());
        let On { service, server, .. } = &trigger.on;
        check(format!("{own}.on"), service.as_deref(), server.as_deref());
        for (position, action) in trigger.actions.iter().enumerate() {
            let (service, server) = action.place();
            check(format!("{own}.do[{position}]"), service, server);
        }
    }
}

impl Action {
    /// The service and the server that it changes.
    fn place(&self) -> (Option<&str>, Option<&str>) {
        match self {
            Self::Want { service, server, .. } | Self::Weight { service, server, .. } => {
                (Some(service), Some(server))
            }
            Self::Service { service, .. } => (Some(service), None),
            Self::Script { .. } | Self::Webhook(_) => (None, None),
        }
    }

    fn document(&self) -> document::Action {
        let (service, server) = self.place();
        let blank = document::Action {
            action: Deed::Enable,
            service: service.map(str::to_owned),
            server: server.map(str::to_owned),
            weight: None,
            path: None,
            args: Vec::new(),
            timeout: None,
            url: None,
            secret: None,
        };
        match self {
            Self::Want { deed, .. } => document::Action { action: *deed, ..blank },
            Self::Service { enabled, .. } => {
                let action = if *enabled { Deed::Enable } else { Deed::Disable };
                document::Action { action, ..blank }
            }
            Self::Weight { weight, .. } => {
                document::Action { action: Deed::Weight, weight: Some(*weight), ..blank }
            }
            Self::Script { path, arguments, timeout } => document::Action {
                action: Deed::Script,
                path: Some(path.clone()),
                args: arguments.clone(),
                timeout: Some(seconds(*timeout)),
                ..blank
            },
            Self::Webhook(webhook) => document::Action {
                action: Deed::Webhook,
                url: Some(webhook.url.text.clone()),
                secret: webhook.secret.clone().map(|Secret(text)| text),
                timeout: Some(seconds(webhook.timeout)),
                ..blank
            },
        }
    }
}

impl Trigger {
    pub(super) fn document(&self) -> document::Trigger {
        let On { event, service, server, state } = self.on.clone();
        document::Trigger {
            name: self.name.clone(),
            on: document::On { event, service, server, state },
            r#do: self.actions.iter().map(Action::document).collect(),
            rate: self.rate,
        }
    }
}
