// Putting sockets back: their part of apply/descriptors.h.
//
// Making is prepare: at spare numbers, in the undo log. A socket is bound in the task where the name is made with the
// task's rights (unix), and on our duplicate where it need not be (a port that the task itself may no longer bind).
#pragma once

#include <cstddef>

#include "apply/file_maker.h"
#include "base/result.h"
#include "diff/descriptors.h"
#include "model/descriptor.h"

namespace relive::apply {

// The number of a file in the table at hand, when all are filled: the lowest; else its spare number; else none (-1).
[[nodiscard]] model::RemoteFd number_then(const FileMaker& maker, const model::DescriptorTable& wanted,
                                          std::size_t file);

// Errors: refused (the address is taken or gone, unread bytes do not fit), system, injected.
Result<void> carry_out(FileMaker& maker, const model::DescriptorTable& wanted, const diff::MakeSocket& op);
Result<void> carry_out(FileMaker& maker, const model::DescriptorTable& wanted, const diff::MakeSocketPair& op);
// By TCP repair; where that is not permitted (or the task is in another network namespace), both ends become sockets
// whose peer is gone, and a note says so.
Result<void> carry_out(FileMaker& maker, const model::DescriptorTable& wanted, const diff::MakeConnection& op);
Result<void> carry_out(FileMaker& maker, const model::DescriptorTable& wanted, const diff::MakeHungUp& op);
// What joins sockets of the task with each other: when all have been made.
Result<void> carry_out(FileMaker& maker, const model::DescriptorTable& wanted, const diff::ConnectSocket& op);
Result<void> carry_out(FileMaker& maker, const model::DescriptorTable& wanted, const diff::FillSocket& op);
// Commit operations. A RefillSocket is prepared as well: whoever is to send must find the socket by its name now.
Result<void> carry_out(FileMaker& maker, const model::DescriptorTable& wanted, const model::DescriptorTable& living,
                       const diff::RefillSocket& op);
Result<void> carry_out(FileMaker& maker, const diff::ShutDown& op);
Result<void> carry_out(FileMaker& maker, const diff::Listen& op);

}  // namespace relive::apply
