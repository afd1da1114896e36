/* Part of WAMR's aot_llvm_extra.cpp (native/cmake/wamr_source.cmake, wamr_check_stack_inside): functions that need no check of the stack (stack.h).
 *
 * What calls no other function, or only such to a depth of pw_unchecked, is entered from a function with a check, which leaves room for their frames:
 * of the native stack out of the 64 KiB behind the bound, of the frames that traps are told from because it looks for that many more. Unless somebody
 * else may call it: the host, or a call through a table. Of functions that call each other in a circle each one has its checks. */
#include <llvm/ADT/SCCIterator.h>
#include <llvm/Analysis/CallGraph.h>
#include <llvm/IR/Constants.h>
#include <llvm/IR/InstIterator.h>

extern "C" {
extern const uint32 pw_unchecked;
bool
pw_is_outside(uint32 number);
}

namespace pw {

/* The comparisons of a function that stack.h made, by the name that it gave them. */
static std::vector<llvm::Instruction *>
checks(llvm::Function &function, const char *name)
{
    std::vector<llvm::Instruction *> found;
    for (llvm::Instruction &each : llvm::instructions(function))
        if (each.getMetadata(name))
            found.push_back(&each);
    return found;
}

static void
leave_checks(llvm::Module &module)
{
    llvm::CallGraph graph(module);
    std::map<const llvm::Function *, uint32> depths; /* of functions without checks: how many frames they make below their own */
    for (auto group = llvm::scc_begin(&graph); !group.isAtEnd(); ++group) { /* what is called comes first */
        llvm::CallGraphNode &node = *group->front();
        llvm::Function *function = node.getFunction();
        uint32 number, depth = 0;
        if (!function || group.hasCycle())
            continue;
        llvm::StringRef name = function->getName();
        if (!name.consume_front(AOT_FUNC_PREFIX) || name.getAsInteger(10, number))
            continue;
        auto stack = checks(*function, "pw.stack"), room = checks(*function, "pw.room");
        if (!room.empty()) {
            depth = 1;
            for (auto &call : node) {
                auto called = depths.find(call.second->getFunction());
                depth = std::max(depth, called == depths.end() ? 1 : 1 + called->second);
            }
        }
        if (stack.empty() || depth > pw_unchecked || (depth > 0 && pw_is_outside(number)))
            continue;
        depths[function] = depth;
        stack.insert(stack.end(), room.begin(), room.end());
        for (llvm::Instruction *each : stack)
            each->replaceAllUsesWith(llvm::ConstantInt::getFalse(each->getType()));
    }
}

} // namespace pw
