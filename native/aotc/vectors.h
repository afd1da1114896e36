/* Part of WAMR's aot_llvm_extra.cpp, in front of its passes (native/cmake/wamr_source.cmake, wamr_make_vectors).
 *
 * A load whose value nobody needs must still trap out of bounds, what was stored before a trap must be there and nothing else, and a signalling
 * NaN times one must become quiet. LLVM knows none of it, so accesses are volatile and arithmetic of floats is made of constrained operations.
 * But LLVM makes no vectors of a loop that has such. So for as long as it makes vectors, and no longer, loads and arithmetic in loops that do
 * not store are let go. Then every load is held again, in vectors or not, and what is still done number by number is constrained again: all
 * other passes only ever see code that is held. Loops that store come in two versions, native/aotc/loops.h.
 *
 * Loads of vectors by a mask or from many places can't be volatile. LLVM would use the first for loops of a few turns, which are left alone.
 * The second are switched off, and vectors whose length is not fixed (native/aotc/main.c); where they can't be, nothing is let go. */
#include <llvm/Analysis/LoopInfo.h>
#include <llvm/Analysis/ScalarEvolution.h>
#include <llvm/Analysis/TargetTransformInfo.h>
#include <llvm/IR/Dominators.h>
#include <llvm/IR/IntrinsicInst.h>

#include "loops.h"

namespace {

class MakeVectors : public llvm::PassInfoMixin<MakeVectors> {
    using Key = std::pair<unsigned, llvm::Type *>;
    static const unsigned few = 16; /* LLVM's vectorizer-min-trip-count */

  public:
    llvm::PreservedAnalyses
    run(llvm::Function &function, llvm::FunctionAnalysisManager &analyses)
    {
        if (function.isDeclaration() || analyses.getResult<llvm::LoopAnalysis>(function).empty())
            return llvm::PreservedAnalyses::all();
        auto &target = analyses.getResult<llvm::TargetIRAnalysis>(function);
        auto *four = llvm::FixedVectorType::get(llvm::Type::getInt32Ty(function.getContext()), 4);
        if (target.supportsScalableVectors() || target.isLegalMaskedGather(four, llvm::Align(4)))
            return llvm::PreservedAnalyses::all();
        make(function, analyses, true);
        if (pw::version_loops(function, analyses))
            make(function, analyses, false);
        return llvm::PreservedAnalyses::none();
    }

  private:
    static void
    make(llvm::Function &function, llvm::FunctionAnalysisManager &analyses, bool loads)
    {
        std::map<Key, llvm::CallInst *> constrained;
        let_go(function, analyses, constrained, loads);
        analyses.invalidate(function, llvm::PreservedAnalyses::none());
        llvm::LoopVectorizePass().run(function, analyses);
        hold(function, constrained, loads);
        for (auto &each : constrained)
            each.second->deleteValue();
        analyses.invalidate(function, llvm::PreservedAnalyses::none());
    }

    /* What the runtime keeps for itself lies at fixed places behind an argument, or behind a pointer found there. */
    static bool
    is_of_guest(const llvm::LoadInst &load)
    {
        const llvm::Value *from = load.getPointerOperand()->stripInBoundsConstantOffsets();
        if (auto *cast = llvm::dyn_cast<llvm::IntToPtrInst>(from)) /* an earlier pass loaded it together with its neighbour */
            from = cast->getOperand(0);
        return !load.isAtomic() && !llvm::isa<llvm::Argument>(from) && !llvm::isa<llvm::LoadInst>(from)
               && !llvm::isa<llvm::AllocaInst>(from) && !llvm::isa<llvm::Constant>(from);
    }

    /* Whether what a turn writes is seen when a load of a later turn traps. */
    static bool
    writes(const llvm::Loop &loop)
    {
        for (const llvm::BasicBlock *block : loop.blocks())
            for (const llvm::Instruction &instruction : *block) {
                if (instruction.mayWriteToMemory() && !llvm::isa<llvm::LoadInst>(instruction)
                    && !llvm::isa<llvm::ConstrainedFPIntrinsic>(instruction))
                    return true;
            }
        return false;
    }

    /* Whether each turn of the loop loads, and does something with what it loaded. */
    static bool
    is_needed(const llvm::LoadInst &load, const llvm::Loop &loop, const llvm::DominatorTree &dominators)
    {
        const llvm::BasicBlock *latch = loop.getLoopLatch();
        if (!latch || !dominators.dominates(load.getParent(), latch))
            return false;
        for (const llvm::User *user : load.users()) {
            auto *instruction = llvm::cast<llvm::Instruction>(user);
            if (!llvm::isa<llvm::PHINode>(instruction) && loop.contains(instruction))
                return true;
        }
        return false;
    }

    /* The plain operation for a constrained one, or 0. Where LLVM would take the result for an operand, there is none. */
    static unsigned
    plain(const llvm::ConstrainedFPIntrinsic &call)
    {
        for (const llvm::Value *operand : call.args()) {
            auto *constant = llvm::dyn_cast<llvm::Constant>(operand);
            if (!constant)
                continue;
            auto *number = llvm::dyn_cast<llvm::ConstantFP>(constant);
            if (!number || number->isZero() || number->isExactlyValue(1.0) || number->isExactlyValue(-1.0)
                || !number->getValueAPF().isFinite())
                return 0;
        }
        switch (call.getIntrinsicID()) {
            case llvm::Intrinsic::experimental_constrained_fadd:
                return llvm::Instruction::FAdd;
            case llvm::Intrinsic::experimental_constrained_fsub:
                return llvm::Instruction::FSub;
            case llvm::Intrinsic::experimental_constrained_fmul:
                return llvm::Instruction::FMul;
            case llvm::Intrinsic::experimental_constrained_fdiv:
                return llvm::Instruction::FDiv;
            default:
                return 0;
        }
    }

    static void
    let_go(llvm::Function &function, llvm::FunctionAnalysisManager &analyses, std::map<Key, llvm::CallInst *> &constrained, bool loads)
    {
        auto &loops = analyses.getResult<llvm::LoopAnalysis>(function);
        auto &dominators = analyses.getResult<llvm::DominatorTreeAnalysis>(function);
        auto &evolution = analyses.getResult<llvm::ScalarEvolutionAnalysis>(function);
        std::vector<llvm::ConstrainedFPIntrinsic *> calls;
        for (auto &block : function) {
            const llvm::Loop *loop = loops.getLoopFor(&block);
            if (!loop || !loop->isInnermost())
                continue;
            unsigned most = evolution.getSmallConstantMaxTripCount(loop);
            if (most > 0 && most < few)
                continue;
            for (auto &instruction : block) {
                if (auto *load = llvm::dyn_cast<llvm::LoadInst>(&instruction)) {
                    if (loads && load->isVolatile() && is_of_guest(*load) && !writes(*loop) && is_needed(*load, *loop, dominators))
                        load->setVolatile(false);
                }
                else if (auto *call = llvm::dyn_cast<llvm::ConstrainedFPIntrinsic>(&instruction)) {
                    if (plain(*call))
                        calls.push_back(call);
                }
            }
        }
        for (auto *call : calls) {
            auto operation = static_cast<llvm::Instruction::BinaryOps>(plain(*call));
            auto *left = call->getArgOperand(0), *right = call->getArgOperand(1);
            call->replaceAllUsesWith(llvm::BinaryOperator::Create(operation, left, right, "", call));
            if (constrained.count({ operation, call->getType() })) {
                call->eraseFromParent();
                continue;
            }
            call->removeFromParent(); /* the pattern by which it is made constrained again */
            call->setArgOperand(0, llvm::UndefValue::get(call->getType()));
            call->setArgOperand(1, llvm::UndefValue::get(call->getType()));
            constrained[{ operation, call->getType() }] = call;
        }
    }

    static void
    hold(llvm::Function &function, const std::map<Key, llvm::CallInst *> &constrained, bool loads)
    {
        std::vector<llvm::BinaryOperator *> floats;
        for (auto &block : function)
            for (auto &instruction : block) {
                if (auto *load = llvm::dyn_cast<llvm::LoadInst>(&instruction)) {
                    if (loads && is_of_guest(*load))
                        load->setVolatile(true);
                }
                else if (auto *operation = llvm::dyn_cast<llvm::BinaryOperator>(&instruction)) {
                    if (constrained.count({ operation->getOpcode(), operation->getType() }))
                        floats.push_back(operation);
                }
                else if (auto *call = llvm::dyn_cast<llvm::IntrinsicInst>(&instruction)) {
                    auto kind = call->getIntrinsicID();
                    if (loads && (kind == llvm::Intrinsic::masked_load || kind == llvm::Intrinsic::masked_gather))
                        llvm::report_fatal_error("a loop became loads that can't be held");
                }
            }
        for (auto *operation : floats) {
            auto *call = llvm::cast<llvm::CallInst>(constrained.at({ operation->getOpcode(), operation->getType() })->clone());
            call->setArgOperand(0, operation->getOperand(0));
            call->setArgOperand(1, operation->getOperand(1));
            call->insertBefore(operation);
            operation->replaceAllUsesWith(call);
            operation->eraseFromParent();
        }
    }
};

#if LLVM_VERSION_MAJOR >= 18
#define PW_COMBINE "instcombine<no-verify-fixpoint>,"
#else
#define PW_COMBINE "instcombine,"
#endif

/* In front of WAMR's pipeline, which takes loops apart: just what it needs for a loop to be seen as one. */
llvm::Error
pw_make_vectors(llvm::PassBuilder &builder, llvm::ModulePassManager &passes)
{
    auto error = builder.parsePassPipeline(passes, "function(mem2reg," PW_COMBINE "simplifycfg,early-cse,gvn)");
    passes.addPass(llvm::createModuleToFunctionPassAdaptor(MakeVectors()));
    return error;
}

} // namespace
