// Putting back sockets that send to addresses (model::is_addressed): UDP, raw, netlink and packet sockets.
// Part of apply/sockets.h.
#pragma once

#include <cstddef>

#include "apply/file_maker.h"
#include "base/result.h"
#include "diff/descriptors.h"
#include "model/descriptor.h"

namespace relive::apply {

// A new socket of which `ours` is a duplicate: its address, its groups.
// Errors: refused (the address is taken or gone).
Result<void> settle_addressed(int ours, const model::Socket& socket);

// A living one, with its inverse in the undo log. Refused where it does not come to its address again.
Result<void> carry_out(FileMaker& maker, const model::DescriptorTable& wanted, const model::DescriptorTable& living,
                       const diff::MoveSocket& op);

// Prepare: the unread datagrams of a new socket are sent to it. Refused where they do not arrive as they were.
Result<void> fill_addressed(FileMaker& maker, const model::DescriptorTable& wanted, const diff::FillSocket& op);
// Commit operations: those of a living one, which is empty by then. Refused where another socket might get them.
Result<void> refill_addressed(FileMaker& maker, const model::DescriptorTable& wanted,
                              const model::DescriptorTable& living, const diff::RefillSocket& op);

}  // namespace relive::apply
