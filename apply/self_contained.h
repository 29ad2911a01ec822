// How a self-contained object (model/self_contained.h) is made, and how a living one is put right: two overloads a
// kind.
#pragma once

#include <cstddef>

#include "apply/file_maker.h"
#include "base/result.h"
#include "model/descriptor.h"

namespace relive::apply {

// prepare: makes `wanted` as the open file `file`, with all that it holds. Its status flags, owner and signal are set
// by the caller.
Result<void> make(FileMaker& maker, std::size_t file, const model::EventCounter& wanted);
Result<void> make(FileMaker& maker, std::size_t file, const model::TimerFile& wanted);
Result<void> make(FileMaker& maker, std::size_t file, const model::SignalFile& wanted);
Result<void> make(FileMaker& maker, std::size_t file, const model::InotifySet& wanted);
Result<void> make(FileMaker& maker, std::size_t file, const model::ProcessHandle& wanted);
Result<void> make(FileMaker& maker, std::size_t file, const model::Tunnel& wanted);

// commit operations, which cannot fail, that make the living object under the number `fd` hold what `wanted` holds; its
// status flags end up as `flags`. REQUIRES: diff::can_become() said yes.
Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t flags, const model::EventCounter& wanted,
                       const model::EventCounter& living);
Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t flags, const model::TimerFile& wanted,
                       const model::TimerFile& living);
Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t flags, const model::SignalFile& wanted,
                       const model::SignalFile& living);
Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t flags, const model::InotifySet& wanted,
                       const model::InotifySet& living);
Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t flags, const model::ProcessHandle& wanted,
                       const model::ProcessHandle& living);
Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t flags, const model::Tunnel& wanted,
                       const model::Tunnel& living);

}  // namespace relive::apply
