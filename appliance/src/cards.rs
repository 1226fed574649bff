//! Which cards a configuration asks for.

use controlplane::config::{Config, Device, Port};

/// The PCI addresses that `config` names, each once.
pub fn named_in(config: &Config) -> Vec<String> {
    let address = |port: &Port<'_>| match port.device {
        Device::Pci(address) => Some(address.clone()),
        Device::Kernel(_) | Device::Virtual(_) => None,
    };
    config.ports().iter().filter_map(address).collect()
}
