"""The platform's namespace, `energysettlement`. One folder per version of the contract, nothing else."""
