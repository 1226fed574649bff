//! Which cards a configuration asks for.

use controlplane::config::{Config, Device, Interface};

/// The PCI addresses that `config` names.
pub fn named_in(config: &Config) -> Vec<String> {
    let address = |interface: &Interface| match &interface.device {
        Device::Pci(address) => Some(address.clone()),
        Device::Kernel(_) | Device::Virtual(_) => None,
    };
    config.interfaces.iter().filter_map(address).collect()
}
