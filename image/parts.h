// All entries of an image, decoded: between the files and the model. Internal to this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "image/entries.h"
#include "image/finding.h"
#include "image/proto/core.pb.h"
#include "image/proto/extra.pb.h"
#include "image/proto/files.pb.h"
#include "image/proto/fs.pb.h"
#include "image/proto/ghost.pb.h"
#include "image/proto/ids.pb.h"
#include "image/proto/inventory.pb.h"
#include "image/proto/locks.pb.h"
#include "image/proto/memory.pb.h"
#include "image/proto/pstree.pb.h"

namespace relive::image {

struct PipeContents {
  std::uint32_t capacity = 0;
  std::vector<std::byte> bytes;
};

struct WaitingMessage {
  pb::QueuedMessage entry;
  std::vector<std::byte> bytes;
};

struct Parts {
  pb::Inventory inventory;
  std::vector<pb::TreeEntry> tree;
  std::map<std::uint32_t, pb::Core> cores;                      // by tid
  std::map<std::uint32_t, pb::ObjectIds> ids;                   // by pid
  std::map<std::uint32_t, pb::Memory> memories;                 // by pid
  std::map<std::uint32_t, pb::Fs> fs;                           // by pid
  std::map<std::uint32_t, std::vector<pb::Descriptor>> tables;  // by ObjectIds.files
  std::map<std::uint32_t, pb::File> files;                      // by id
  std::vector<pb::Remap> remaps;                                //
  std::map<std::uint32_t, PipeContents> pipes;                  // by pipe
  std::map<std::uint32_t, std::vector<WaitingMessage>> queues;  // by id of the file
  std::map<std::uint32_t, pb::Terminal> terminals;              // by id
  std::map<std::uint64_t, pb::MemoryInode> memory_inodes;       // by inode_id
  std::vector<pb::FileLock> locks;
  std::map<std::uint32_t, pb::ExtraTask> extras;  // by pid
};

// Reads all entries. Files that are missing, broken, or say a thing twice are findings.
Parts read_parts(const ImageSource& source, Findings& findings, Budget& budget);

// Writes all entries but inventory.img into an open directory.
Result<void> write_parts(int directory, const Parts& parts);
Result<void> write_inventory(int directory, const Parts& parts);

}  // namespace relive::image
