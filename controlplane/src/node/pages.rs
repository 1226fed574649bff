//! The operator's pages change while nobody changes the configuration, which may name them.

use std::sync::Arc;

use super::{Node, Refusal, helped};
use crate::config::{self, Fallback};
use crate::pages::files::{self, Page};

impl Node {
    /// Keeps a page of the operator's under this name, instead of the one that there may have been; says what it is now,
    /// and whether it is new.
    ///
    /// # Errors
    ///
    /// When there are as many as there can be, and when it cannot be written.
    pub async fn put_page(&self, name: String, text: Vec<u8>) -> Result<(Page, bool), Refusal> {
        let alone = Arc::clone(&self.changing).lock_owned().await;
        let pages = self.pages.clone();
        helped(move || {
            let _alone = alone;
            let is_new = pages.find(&name)?.is_none();
            if is_new && pages.list()?.len() >= files::MOST {
                return Err(Refusal::TooManyPages);
            }
            pages.write(&name, &text)?;
            Ok((pages.find(&name)?.ok_or(Refusal::Failed)?, is_new))
        })
        .await
    }

    /// Removes a page of the operator's.
    ///
    /// # Errors
    ///
    /// When there is none, when a service names it, and when it cannot be removed.
    pub async fn remove_page(self: &Arc<Self>, name: String) -> Result<(), Refusal> {
        let alone = Arc::clone(&self.changing).lock_owned().await;
        let node = Arc::clone(self);
        helped(move || {
            let _alone = alone;
            let pages = &node.pages;
            if pages.find(&name)?.is_none() {
                return Err(Refusal::NotFound(format!("page {name}")));
            }
            let view = node.view();
            let names_it = |service: &&config::Service| {
                matches!(&service.fallback, Fallback::Page(Some(page)) if *page == name)
            };
            if let Some(service) = view.config.services.iter().find(names_it) {
                return Err(Refusal::InUse { page: name, service: service.name.clone() });
            }
            pages.remove(&name)
        })
        .await
    }
}
