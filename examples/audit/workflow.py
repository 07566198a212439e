"""`Audit`: finds what is wrong in a Python tree, judges the worst files, and publishes a report.

Law: a step that fails costs its own part of the report and no more; a report that cannot be trusted is withdrawn.
"""

from __future__ import annotations

from typing import Any

from temporalio import workflow

from workflows import AgentWorkflow, InputRejected, PerdureError, Saga, parse

with workflow.unsafe.imports_passed_through():  # models and pure functions: no run needs a copy of its own
    from examples.audit import orders
    from examples.audit.assembling import (
        AuditFailed,
        Inspected,
        Judged,
        Suspect,
        answer_of,
        assemble,
        gate,
        inspected,
        judged,
        reason,
        summary,
    )
    from examples.audit.findings import AuditRequest, AuditSummary, Inventory, Publication, Report
    from examples.audit.judging import worst


class GateFailed(PerdureError):
    """The audit found what `fail_on` forbids. Its report is in place; the details hold the summary."""


@workflow.defn
class Audit(AgentWorkflow):
    """Audits a tree of Python files."""

    @workflow.run
    async def run(self, given: Any = None) -> AuditSummary:
        """The summary; raises `AuditFailed` where there is no report, `GateFailed` where `fail_on` says so.

        `given` is an `AuditRequest`, read here and not by the data converter: a wrong one then fails in our words.
        """
        request = parse(AuditRequest, {} if given is None else given, "Audit", InputRejected)
        tree = answer_of(await self.agent(orders.take_inventory(request)), Inventory)
        self.log("info", f"{len(tree.files):,} files to inspect in {tree.root}", {"skipped": tree.skipped})
        found = await self.inspect(tree, request)
        urgent = await self.judge(tree, found, request)
        report = assemble(tree, found, urgent, output=request.output, edition=workflow.info().run_id)
        publication = await self.publish(report, found)
        result = summary(report, publication)
        if forbidden := gate(report, request.fail_on):
            raise GateFailed(f"The audit found {forbidden}. Its report is {publication.path}.", result)
        return result

    async def inspect(self, tree: Inventory, request: AuditRequest) -> Inspected:
        """Every file by itself, and the whole tree by ruff; a step that fails becomes a line of the report."""
        ruff, *files = await self.phase("inspect", [orders.ask_ruff(tree), *orders.inspect_files(tree, request.limits)])
        return inspected(ruff, files)

    async def judge(self, tree: Inventory, found: Inspected, request: AuditRequest) -> Judged:
        """The worst files, each measured, judged and summarised; no file waits for another."""
        suspects = [Suspect(tree.root, file) for file in worst(found.reports, request.worst_files)]
        self.log("info", f"{len(suspects)} files to judge", {"files": [suspect.file.path for suspect in suspects]})
        ended = await self.pipeline(suspects, [orders.measure, orders.judge, orders.summarise])
        return judged(suspects, ended)

    async def publish(self, report: Report, found: Inspected) -> Publication:
        """Put the report in place and make sure of it, or leave everything as it was."""
        saga = Saga(self)
        try:
            saga.push("withdraw the report", self.agent, orders.withdraw(report))
            publication = answer_of(await self.agent(orders.publish(report)), Publication)
            verified = await self.agent(orders.verify(publication, report, found.reports))
            if not verified.success:
                raise AuditFailed(f"The report was not kept: {reason(verified)}")
        except BaseException:  # a cancel too
            await saga.compensate()
            raise
        await self.agent(orders.archive(report))  # from here on the report stays
        self.log("info", f"the report is {publication.path}")
        return publication
