/* Part of WAMR's aot_llvm_extra.cpp, in front of its passes (native/cmake/wamr_source.cmake, wamr_fix_removed_load).
 *
 * A load whose value nobody needs must still trap out of bounds, and LLVM would remove it: loads come volatile. But LLVM makes no vectors of a
 * loop with volatile loads. So the code is cleaned with the loads in loops let go and each value held by a call that does nothing; then those
 * are volatile again whose value nothing else needs. When code is generated all are, because else no more of a number is read than is needed. */
#include <llvm/Analysis/LoopInfo.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/Transforms/Utils/Local.h>

namespace {

constexpr char PW_HOLD[] = "pw_hold";

/* What the runtime keeps for itself lies at fixed places behind an argument, or behind a pointer found there. What is longer than a guest's
 * vector is of LLVM's own making, and is read whole. */
bool
pw_is_of_guest(const llvm::LoadInst &load)
{
    if (load.isAtomic() || load.getType()->getPrimitiveSizeInBits() > 128)
        return false;
    const llvm::Value *from = load.getPointerOperand()->stripInBoundsConstantOffsets();
    return !llvm::isa<llvm::Argument>(from) && !llvm::isa<llvm::LoadInst>(from) && !llvm::isa<llvm::AllocaInst>(from)
           && !llvm::isa<llvm::Constant>(from);
}

void
pw_set_volatile(llvm::Function &function, bool is_volatile, const llvm::LoopInfo *only_in)
{
    for (auto &block : function)
        for (auto &instruction : block) {
            auto *load = llvm::dyn_cast<llvm::LoadInst>(&instruction);
            if (load && pw_is_of_guest(*load) && (is_volatile || !load->use_empty()) && (!only_in || only_in->getLoopFor(&block)))
                load->setVolatile(is_volatile);
        }
}

struct LetLoadsGo : llvm::PassInfoMixin<LetLoadsGo> {
    llvm::PreservedAnalyses
    run(llvm::Function &function, llvm::FunctionAnalysisManager &analyses)
    {
        pw_set_volatile(function, false, &analyses.getResult<llvm::LoopAnalysis>(function));
        return llvm::PreservedAnalyses::none();
    }
};

struct HoldLoads : llvm::PassInfoMixin<HoldLoads> {
    llvm::PreservedAnalyses
    run(llvm::Function &function, llvm::FunctionAnalysisManager &)
    {
        pw_set_volatile(function, true, nullptr);
        return llvm::PreservedAnalyses::none();
    }
};

/* A call for each load that was let go, with its value. */
struct HoldValues : llvm::PassInfoMixin<HoldValues> {
    llvm::PreservedAnalyses
    run(llvm::Function &function, llvm::FunctionAnalysisManager &)
    {
        llvm::SmallVector<llvm::LoadInst *, 16> found;
        for (auto &block : function)
            for (auto &instruction : block) {
                auto *load = llvm::dyn_cast<llvm::LoadInst>(&instruction);
                if (load && pw_is_of_guest(*load) && !load->isVolatile())
                    found.push_back(load);
            }
        for (auto *load : found) {
            llvm::IRBuilder<> builder(load->getNextNode());
            auto *type = llvm::FunctionType::get(builder.getVoidTy(), true);
            auto *call = builder.CreateCall(function.getParent()->getOrInsertFunction(PW_HOLD, type), { load });
            call->setOnlyAccessesInaccessibleMemory();
            call->setDoesNotThrow();
            call->addFnAttr(llvm::Attribute::WillReturn);
        }
        return found.empty() ? llvm::PreservedAnalyses::all() : llvm::PreservedAnalyses::none();
    }
};

/* Those calls go, and what was there for them alone, up to the loads, which stay. */
struct LetValuesGo : llvm::PassInfoMixin<LetValuesGo> {
    llvm::PreservedAnalyses
    run(llvm::Module &module, llvm::ModuleAnalysisManager &)
    {
        auto *hold = module.getFunction(PW_HOLD);
        if (!hold)
            return llvm::PreservedAnalyses::all();
        for (auto &function : module)
            pw_set_volatile(function, true, nullptr);
        llvm::SmallVector<llvm::WeakTrackingVH, 16> values;
        while (!hold->use_empty()) {
            auto *call = llvm::cast<llvm::CallBase>(*hold->user_begin());
            values.emplace_back(call->getArgOperand(0));
            call->eraseFromParent();
        }
        llvm::RecursivelyDeleteTriviallyDeadInstructionsPermissive(values);
        hold->eraseFromParent();
        return llvm::PreservedAnalyses::none();
    }
};

#if LLVM_VERSION_MAJOR >= 18
#define PW_CLEAN "gvn,instcombine<no-verify-fixpoint>,simplifycfg,adce"
#else
#define PW_CLEAN "gvn,instcombine,simplifycfg,adce"
#endif

/* In front of the pipeline. */
llvm::Error
pw_let_loads_go(llvm::PassBuilder &builder, llvm::ModulePassManager &passes)
{
    auto error = builder.parsePassPipeline(passes, "function(mem2reg," PW_CLEAN "),cgscc(inline),deadargelim");
    if (error)
        return error;
    passes.addPass(llvm::createModuleToFunctionPassAdaptor(LetLoadsGo()));
    passes.addPass(llvm::createModuleToFunctionPassAdaptor(HoldValues()));
    error = builder.parsePassPipeline(passes, "function(" PW_CLEAN ")");
    passes.addPass(LetValuesGo());
    passes.addPass(llvm::createModuleToFunctionPassAdaptor(LetLoadsGo()));
    return error;
}

/* Behind it. */
void
pw_hold_loads(llvm::ModulePassManager &passes)
{
    passes.addPass(llvm::createModuleToFunctionPassAdaptor(HoldLoads()));
}

} // namespace
