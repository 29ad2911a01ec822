// The page that all tasks of a tree share with their keeper: they commit together or not at all (wire.h, Agreement).
//
// A task alone needs none: its own phase decides.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"
#include "parasite/session.h"
#include "parasite/wire.h"

namespace relive::parasite {

class TreeAgreement {
 public:
  static Result<TreeAgreement> create();
  TreeAgreement(TreeAgreement&&) noexcept;
  TreeAgreement& operator=(TreeAgreement&&) = delete;
  ~TreeAgreement();

  // Maps the page in the visited task, behind its arena, where it stays until Session::leave(); from the next visit on
  // the task takes part. Nothing to do where it is mapped already. After a failure the task is as before.
  Result<void> join(Visit& visit);

  // Nothing decided; `tasks` are to carry out a commit program. REQUIRES: no task stands between stage() and depart().
  void open(std::uint32_t tasks);
  // The point of no return for all of them: one store.
  void decide();
  // Every program was carried out under the keeper's hand: nobody has to wait for anybody.
  void all_done();
  void broken();

 private:
  TreeAgreement(UniqueFd memfd, wire::Agreement* here) : memfd_(std::move(memfd)), here_(here) {}
  UniqueFd memfd_;
  wire::Agreement* here_ = nullptr;
};

}  // namespace relive::parasite
