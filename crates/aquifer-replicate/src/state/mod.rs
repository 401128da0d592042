//! What a replica knows locally: the directory beside the database, the page map, staged segments.

mod directory;
mod head;
mod map_file;
mod page_map;

pub use directory::StateDir;
pub use head::Head;
pub use map_file::MapFile;
pub use page_map::PageMap;
